"""The files that agents make: put by workers, listed and downloaded by callers."""

from collections.abc import Iterable

from maieutic.archive.v1.artifact_store_service_pb2 import (
    GetStoredArtifactResponse,
    PutArtifactRequest,
)
from maieutic.session.v1 import turn_work_service_pb2 as work_pb
from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.artifact_service_pb2 import ListArtifactsRequest
from maieutic.v1.turn_service_pb2 import TURN_STATE_ROLLED_BACK, TurnOutcome
from services.runtime.errors import InvalidArgument, NotFound
from services.session.artifact_archive import ArtifactArchive
from services.session.errors import artifact_not_found, turn_not_found
from services.session.ids import checked
from services.session.listing import DEFAULT_PAGE
from services.session.live import LiveSessions, owned
from services.session.model import LEASED, TERMINAL, Caller, milliseconds
from services.session.paging import OLDEST_FIRST, Place
from services.session.ports import SessionStore
from services.session.turns import Turns


class Artifacts:
    """Of a turn that has ended its outcome says what there is. Raises the errors of `errors`."""

    def __init__(
        self, *, store: SessionStore, live: LiveSessions, archive: ArtifactArchive, turns: Turns
    ) -> None:
        self._store = store
        self._live = live
        self._archive = archive
        self._turns = turns

    async def put(self, request: work_pb.PutTurnArtifactRequest) -> work_pb.PutTurnArtifactResponse:
        """Store a file for the worker that holds the turn."""
        turn = await self._store.turn(checked("turn_id", request.turn_id))
        if turn is None:
            return work_pb.PutTurnArtifactResponse(status=work_pb.WRITE_STATUS_MISSING)
        held = (turn.fence, turn.claim_id) == (request.fence, request.claim_id)
        if turn.phase != LEASED or not held:
            return work_pb.PutTurnArtifactResponse(status=work_pb.WRITE_STATUS_FENCED)
        # Whose turn it is says the turn, never the worker.
        put = PutArtifactRequest(
            tenant=turn.job.tenant,
            user_id=turn.job.user_id,
            session_id=turn.job.message.session_id,
            turn_id=request.turn_id,
            fence=request.fence,
            path=request.path,
            media_type=request.media_type,
            content=request.content,
        )
        artifact = await self._archive.put(put)
        return work_pb.PutTurnArtifactResponse(
            status=work_pb.WRITE_STATUS_APPLIED, artifact=artifact
        )

    async def get(
        self, caller: Caller, artifact_id: str, *, with_content: bool = False
    ) -> GetStoredArtifactResponse:
        """Return one of the caller's artifacts; raises NotFound."""
        checked("artifact_id", artifact_id)
        found = await self._archive.get(artifact_id, with_content=with_content)
        try:
            turn = await self._turns.get(caller, found.artifact.turn_id)
        except NotFound as error:
            raise artifact_not_found(artifact_id) from error
        ended = turn.HasField("outcome")
        if ended and artifact_id not in {one.artifact_id for one in _named(turn.outcome)}:
            raise artifact_not_found(artifact_id)
        return found

    async def page(
        self, caller: Caller, request: ListArtifactsRequest
    ) -> tuple[list[Artifact], str]:
        """Return a page of a turn's or a session's artifacts, and the next page's token."""
        after, limit = OLDEST_FIRST.parse(request.page_token), request.page_size or DEFAULT_PAGE
        if request.turn_id:
            found = await self._of_turn(caller, request)
        elif request.session_id:
            found = await self._of_session(caller, request.session_id, after, limit)
        else:
            raise InvalidArgument("session_id", "give this, or turn_id")
        placed = {_place(one): one for one in found}
        left = sorted(place for place in placed if after is None or place > after)
        last = left[limit - 1] if len(left) > limit else None
        return [placed[place] for place in left[:limit]], OLDEST_FIRST.token(last)

    async def _of_turn(self, caller: Caller, request: ListArtifactsRequest) -> list[Artifact]:
        if request.session_id:
            checked("session_id", request.session_id)
        turn = await self._turns.get(caller, request.turn_id)
        if request.session_id not in ("", turn.session_id):
            raise turn_not_found(request.turn_id)
        return _named(turn.outcome)

    async def _of_session(
        self, caller: Caller, session_id: str, after: Place | None, limit: int
    ) -> list[Artifact]:
        checked("session_id", session_id)
        record, _ = await self._live.transact(
            session_id, lambda d: owned(d.session, session_id, caller.tenant, caller.user)
        )
        # Read before the archive: an outcome that is archived meanwhile is in both.
        here = await self._unarchived(record)
        return [*await self._archive.of_session(session_id, after, limit + 1), *here]

    async def _unarchived(self, record: SessionRecord) -> Iterable[Artifact]:
        turns = await self._store.turns(record.unarchived_turn_ids)
        ended = (turn for turn in turns if turn is not None and turn.phase == TERMINAL)
        return [one for turn in ended for one in _named(turn.finished.outcome)]


def _named(outcome: TurnOutcome) -> list[Artifact]:
    """Return what an outcome names; a turn that was rolled back is as if never asked."""
    return [] if outcome.state == TURN_STATE_ROLLED_BACK else list(outcome.artifacts)


def _place(artifact: Artifact) -> Place:
    return Place(milliseconds(artifact.create_time), artifact.artifact_id)
