"""What agents have found, as callers use it: list, resolve, read the summary."""

from collections.abc import Iterable
from typing import TypeVar

from maieutic.v1 import specification_pb2 as pb, specification_service_pb2 as service
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2 import Findings
from services.runtime.standing import open_conflicts
from services.session.annotations import Annotations
from services.session.findings import find_conflict, resolve
from services.session.ids import checked
from services.session.listing import DEFAULT_PAGE
from services.session.model import Caller, Draft, milliseconds
from services.session.operations import done_before, done_now, request_hash
from services.session.paging import OLDEST_FIRST, Place

Found = TypeVar("Found", pb.Specification, pb.Conflict, pb.Question)


class Specifications:
    """What agents have found in a session. Raises the errors of `errors` and Unavailable."""

    def __init__(self, annotations: Annotations) -> None:
        self._annotations = annotations

    async def specifications(
        self, caller: Caller, request: service.ListSpecificationsRequest
    ) -> tuple[list[pb.Specification], str]:
        """Return a page, in the order in which they were found, and the next page's token."""
        found = await self._findings(caller, request.session_id)
        wanted = [
            one
            for one in found.specifications
            if (request.include_withdrawn or not one.withdrawn)
            and request.category in ("", one.category)
        ]
        return _page(wanted, request.page_token, request.page_size)

    async def conflicts(
        self, caller: Caller, request: service.ListConflictsRequest
    ) -> tuple[list[pb.Conflict], str]:
        """Return a page, in the order in which they were found, and the next page's token."""
        found = await self._findings(caller, request.session_id)
        wanted = found.conflicts if request.include_closed else open_conflicts(found)
        return _page(wanted, request.page_token, request.page_size)

    async def questions(
        self, caller: Caller, request: service.ListQuestionsRequest
    ) -> tuple[list[pb.Question], str]:
        """Return a page, oldest first, and the next page's token."""
        found = await self._findings(caller, request.session_id)
        return _page(found.questions, request.page_token, request.page_size)

    async def summary(self, caller: Caller, request: service.GetSummaryRequest) -> Summary | None:
        """Return the summary of the conversation's older part; None while there is none."""
        found = await self._findings(caller, request.session_id)
        return found.summary if found.HasField("summary") else None

    async def _findings(self, caller: Caller, session_id: str) -> Findings:
        draft = await self._annotations.read(caller, session_id)
        return draft.kept_annotations.findings

    async def resolve(self, caller: Caller, request: service.ResolveConflictRequest) -> pb.Conflict:
        """Decide the conflict, once for each request id."""
        conflict_id = checked("conflict_id", request.conflict_id)
        resolution = pb.Resolution(kind=request.kind, value=request.value)

        def decide(draft: Draft) -> pb.Conflict:
            digest = request_hash(request)
            if done_before(draft, digest):
                return find_conflict(draft, conflict_id)
            conflict = resolve(draft, conflict_id, resolution)
            done_now(draft, request.request_id, digest)
            return conflict

        conflict, _ = await self._annotations.changed(
            caller, request.session_id, decide, request.request_id
        )
        return conflict


def _page(found: Iterable[Found], page_token: str, page_size: int) -> tuple[list[Found], str]:
    after, limit = OLDEST_FIRST.parse(page_token), page_size or DEFAULT_PAGE
    placed = sorted(((_place(one), one) for one in found), key=lambda pair: pair[0])
    rest = [(place, one) for place, one in placed if after is None or place > after]
    last = rest[limit - 1][0] if len(rest) > limit else None
    return [one for _, one in rest[:limit]], OLDEST_FIRST.token(last)


def _place(one: pb.Specification | pb.Conflict | pb.Question) -> Place:
    if isinstance(one, pb.Specification):
        name = one.specification_id
    else:
        name = one.conflict_id if isinstance(one, pb.Conflict) else one.question_id
    return Place(milliseconds(one.create_time), name)
