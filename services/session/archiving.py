"""What the archive confirms: outcomes, revisions of sessions, acceptances."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from maieutic.bus.v1.bus_pb2 import TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as pb
from maieutic.session.v1.record_pb2 import SessionRecord
from maieutic.v1.turn_service_pb2 import TURN_STATE_ROLLED_BACK, TurnOutcome
from services.session.at_once import for_each
from services.session.ending import archived
from services.session.ids import check_jobs, checked_all
from services.session.model import WAITING, Draft, Timing
from services.session.ports import Reads, SessionStore
from services.session.publisher import Publisher


@dataclass(slots=True, kw_only=True)
class _Archived:
    """What the archive says of one session, written in one step."""

    session_id: str
    rows: list[TurnFinished] = field(default_factory=list)
    revision: int = 0
    annotations_revision: int = 0


class Archiving:
    """Takes the archive's word."""

    def __init__(self, *, store: SessionStore, publisher: Publisher, timing: Timing) -> None:
        self._store = store
        self._publisher = publisher
        self._timing = timing

    async def mark(self, request: pb.MarkArchivedRequest) -> None:
        """Take the archive's word for turns, sessions and acceptances."""
        check_jobs("turns.job", (row.job for row in request.turns))
        checked_all("sessions.session_id", (session.session_id for session in request.sessions))
        checked_all("accepted_turn_ids", request.accepted_turn_ids)
        sessions = _by_session(request)
        await for_each(await self._to_write(sessions), self._write)
        await self._acceptance_archived(list(request.accepted_turn_ids))

    async def _to_write(self, sessions: Iterable[_Archived]) -> list[_Archived]:
        """Leave out the sessions of which only a revision is said that changes nothing."""
        with_rows = [each for each in sessions if each.rows]
        others = [each for each in sessions if not each.rows]
        records = await self._store.sessions([each.session_id for each in others])
        return with_rows + [
            each for each, record in zip(others, records, strict=True) if _is_news(record, each)
        ]

    async def _write(self, said: _Archived) -> None:
        def decide(draft: Draft) -> None:
            for row in said.rows:
                archived(draft, row, self._timing)
            record = draft.session
            if record is None or record.tombstone:
                return
            if record.archived_revision < said.revision:
                record.archived_revision = said.revision
                draft.session_changed = True
            if record.archived_annotations_revision < said.annotations_revision:
                record.archived_annotations_revision = said.annotations_revision
                draft.session_changed = True

        reads = Reads(
            turns=[row.job.turn_id for row in said.rows],
            # What a turn found is new to a session that did not seal it itself.
            annotations=any(_about_findings(row.outcome) for row in said.rows),
        )
        _, draft = await self._store.transact(said.session_id, decide, reads)
        self._publisher.after(draft)

    async def _acceptance_archived(self, turn_ids: Sequence[str]) -> None:
        """Note it where it counts: it is what makes a waiting turn durable, which has no job."""
        for turn in await self._store.turns(turn_ids):
            if turn is None or turn.phase != WAITING or turn.acceptance_confirmed:
                continue
            turn_id = turn.job.turn_id

            def decide(draft: Draft, turn_id: str = turn_id) -> None:
                if (waiting := draft.turns.get(turn_id)) is not None and waiting.phase == WAITING:
                    waiting.acceptance_confirmed = True
                    draft.put_turn(waiting)

            reads = Reads(turns=[turn_id])
            await self._store.transact(turn.job.message.session_id, decide, reads)


def _about_findings(outcome: TurnOutcome) -> bool:
    return outcome.HasField("findings") or outcome.state == TURN_STATE_ROLLED_BACK


def _by_session(request: pb.MarkArchivedRequest) -> list[_Archived]:
    sessions: dict[str, _Archived] = {}
    for row in request.turns:
        session_id = row.job.message.session_id
        sessions.setdefault(session_id, _Archived(session_id=session_id)).rows.append(row)
    for session in request.sessions:
        said = sessions.setdefault(session.session_id, _Archived(session_id=session.session_id))
        said.revision = max(said.revision, session.revision)
        notes = session.annotations_revision
        said.annotations_revision = max(said.annotations_revision, notes)
    return list(sessions.values())


def _is_news(record: SessionRecord | None, said: _Archived) -> bool:
    """Whether the session is to learn of the revisions.

    A session that has changed since is told to the archive again, and while a turn is active its
    end will give it a later revision: what is confirmed then counts. Until the first confirm the
    session counts as unknown to the archive. Of its notes the turn's end says nothing.
    """
    if record is None or record.tombstone:
        return False
    if record.archived_annotations_revision < said.annotations_revision:
        return True
    current = said.revision >= record.session.revision or not record.archived_revision
    idle = not record.session.active_turn_id
    return idle and current and record.archived_revision < said.revision
