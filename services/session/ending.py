"""How turns end: the seal, the stop in two steps, the archive's word. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from maieutic.bus.v1.bus_pb2 import RunTurn, SessionChanged, TurnFinished
from maieutic.session.v1 import record_pb2 as record
from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.message_pb2 import Citation
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_CODE,
    TURN_STATE_CANCELLED,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TURN_STATE_ROLLED_BACK,
    Findings,
    HandedOn,
    TurnFrame,
    TurnNotice,
    TurnOutcome,
    TurnState,
    Usage,
)
from services.session import summaries
from services.session.budgets import charge_rest, settle
from services.session.findings import forget, keep, named, together
from services.session.happenings import turn_ended
from services.session.model import (
    CANCELLING,
    LEASED,
    NO_PHASE,
    PROVISIONAL,
    QUEUED,
    STUB,
    TERMINAL,
    TERMINAL_SEQ,
    WAITING,
    Draft,
    EventId,
    RunJob,
    Timing,
    agent_message,
    aside,
    in_line,
    in_window,
    rolled_back,
    say,
    timestamp,
    trim,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a turn ends, apart from who says so and when."""

    state: TurnState.ValueType
    text: str = ""
    citations: Sequence[Citation] = ()
    usage: Sequence[Usage] = ()
    reason: str = ""
    explanation: str = ""
    artifacts: Sequence[Artifact] = ()
    """Those of the last step."""
    findings: Findings = field(default_factory=Findings)
    """Those of the last step; a session learns of them as its turn is sealed."""
    handed_on: Sequence[HandedOn] = ()


def end(draft: Draft, turn: record.TurnRecord, ending: Ending, timing: Timing) -> TurnFinished:
    """Give the turn its outcome, once and for all.

    A provisional turn keeps it to itself until the archive confirms one; any other is sealed.
    """
    finished = _finished(draft, turn, ending)
    turn.finished.CopyFrom(finished)
    turn.lease_end_ms = 0
    turn.ClearField("intent")
    turn_id = turn.job.turn_id
    draft.due[turn_id] = draft.now_ms + timing.archive_grace
    if turn.provisional:
        turn.phase = PROVISIONAL
        draft.put_turn(turn)
        return finished
    turn.phase = TERMINAL
    seal(draft, turn, timing)
    draft.log(turn_ended(turn))
    return turn.finished


def _finished(draft: Draft, turn: record.TurnRecord, ending: Ending) -> TurnFinished:
    finished = TurnFinished(job=turn.job, outcome=_outcome(draft, turn, ending))
    finished.job.ClearField("session")
    if turn.start_ms:
        finished.start_time.CopyFrom(timestamp(turn.start_ms))
    if ending.state == TURN_STATE_ROLLED_BACK:
        # The question has no place in the conversation, and there is no answer.
        finished.job.message.ClearField("position")
        finished.outcome.ClearField("text")
    elif ending.text and turn.phase != WAITING and not aside(turn.job):
        answer = agent_message(finished, position=draft.record.next_position)
        finished.answer.CopyFrom(answer)
    return finished


def _outcome(draft: Draft, turn: record.TurnRecord, ending: Ending) -> TurnOutcome:
    """Return the outcome, with what finished steps have found and consumed."""
    steps = turn.finished_steps
    # Of a turn that writes files and has not ended well the text is a part of a file.
    half = turn.job.kind == TURN_KIND_CODE and ending.state != TURN_STATE_COMPLETED
    outcome = TurnOutcome(
        state=ending.state,
        text="" if half else ending.text,
        citations=ending.citations,
        usage=[*(usage for step in steps for usage in step.usage), *ending.usage],
        reason=ending.reason,
        explanation=ending.explanation,
        attempts=turn.attempt,
        finish_time=timestamp(draft.now_ms),
        fence=turn.fence,
        handed_on=ending.handed_on,
    )
    last = named(ending.findings, turn, draft.now_ms)
    outcome.artifacts.extend(artifact for step in steps for artifact in step.artifacts)
    outcome.artifacts.extend(ending.artifacts)
    found = together([*(step.findings for step in steps), last])
    if found.ByteSize():
        outcome.findings.CopyFrom(found)
    return outcome


def seal(draft: Draft, turn: record.TurnRecord, timing: Timing) -> None:
    """Show the outcome: answer into the window, terminal frame, session free, next one promoted."""
    session, finished, turn_id = draft.record, turn.finished, turn.job.turn_id
    frame = TurnFrame(turn_id=turn_id, outcome=finished.outcome)
    draft.events.append((turn_id, EventId(turn.fence, TERMINAL_SEQ), frame))
    if finished.HasField("answer") and not in_window(session, finished.answer.message_id):
        draft.put_message(finished.answer)
    if rolled_back(turn):
        draft.withdraw_messages(turn_id)
    _learn(draft, turn)
    charge_rest(draft, turn)
    _leave_line(session, turn_id)
    if session.session.active_turn_id == turn_id:
        session.session.active_turn_id = ""
        promote(draft, timing)
    trim(draft)
    summaries.sum_up(draft, turn, timing)
    draft.touch()
    finished.session.CopyFrom(session.session)
    if rolled_back(turn):
        draft.remember(SessionChanged(tenant=session.tenant, session=session.session))
    draft.put_turn(turn)


def _learn(draft: Draft, turn: record.TurnRecord) -> None:
    """Let the session know what the turn has found, or forget it with a turn that is undone.

    Whoever ends a turn that may have found something reads the annotations with it; what steps
    have found before is there already.
    """
    if draft.annotations is None:
        return
    if rolled_back(turn):
        forget(draft, turn.job)
    elif turn.finished.outcome.HasField("findings"):
        keep(draft, turn.finished.outcome.findings)


def _leave_line(session: record.SessionRecord, turn_id: str) -> None:
    for line in (session.waiting_turn_ids, session.side_turn_ids):
        if turn_id in line:
            line.remove(turn_id)


def promote(draft: Draft, timing: Timing) -> None:
    """Start the turn that has waited longest; its message enters the window now."""
    session = draft.record
    if session.session.active_turn_id or not session.waiting_turn_ids:
        return
    turn = draft.turns[session.waiting_turn_ids.pop(0)]
    turn.phase = QUEUED
    say(draft, turn.job)
    session.session.active_turn_id = turn.job.turn_id
    draft.put_turn(turn)
    draft.touch()
    draft.due[turn.job.turn_id] = draft.now_ms + timing.publish_grace
    draft.effects.append(RunJob(job=turn.job))


def stop(draft: Draft, turn: record.TurnRecord, intent: record.TurnIntent, timing: Timing) -> None:
    """Step 1 of a stop: move the fence and keep the intent, so that the log is frozen."""
    fence = draft.next_fence(turn)
    turn.phase = CANCELLING
    turn.claim_id = turn.worker_id = ""
    turn.lease_end_ms = 0
    turn.intent.CopyFrom(intent)
    notice = TurnFrame(turn_id=turn.job.turn_id, notice=TurnNotice(code="STOPPING"))
    draft.events.append((turn.job.turn_id, EventId(fence, 0), notice))
    draft.due[turn.job.turn_id] = draft.now_ms + timing.cancel_grace
    draft.put_turn(turn)
    _stop_children(draft, turn.job.turn_id, intent, timing)


def _stop_children(draft: Draft, turn_id: str, intent: record.TurnIntent, timing: Timing) -> None:
    """Stop what was begun with a turn that is cancelled or rolled back; the clock ends it."""
    if intent.state not in (TURN_STATE_CANCELLED, TURN_STATE_ROLLED_BACK):
        return
    children = [
        draft.turns[side]
        for side in draft.record.side_turn_ids
        if side in draft.turns and draft.turns[side].job.parent_turn_id == turn_id
    ]
    for child in children:
        if child.phase in (QUEUED, LEASED):
            stop(draft, child, intent, timing)
            draft.due[child.job.turn_id] = draft.now_ms


def finish_stop(draft: Draft, turn_id: str, partial: str, timing: Timing) -> None:
    """Step 2 of a stop: end the turn as intended, with the text of its frozen log."""
    turn = draft.turns.get(turn_id)
    if turn is None or turn.phase != CANCELLING:
        return
    draft.effects.append(end(draft, turn, _as_intended(turn.intent, partial), timing))


def _as_intended(intent: record.TurnIntent, partial: str) -> Ending:
    return Ending(
        state=TurnState.ValueType(intent.state),
        text=partial,
        reason=intent.reason,
        explanation=intent.explanation,
    )


def end_waiting(
    draft: Draft, turn: record.TurnRecord, intent: record.TurnIntent, timing: Timing
) -> None:
    """End a turn that has not begun, in one step; its message never entered the window."""
    draft.next_fence(turn)
    # A provisional turn is not sealed yet, but it must not be promoted any more.
    _leave_line(draft.record, turn.job.turn_id)
    _stop_children(draft, turn.job.turn_id, intent, timing)
    draft.session_changed = True
    draft.effects.append(end(draft, turn, _as_intended(intent, ""), timing))


def fail(
    draft: Draft, turn: record.TurnRecord, reason: str, explanation: str, timing: Timing
) -> None:
    """End the turn without its worker: attempts are spent."""
    draft.next_fence(turn)
    ending = Ending(state=TURN_STATE_FAILED, reason=reason, explanation=explanation)
    draft.effects.append(end(draft, turn, ending, timing))


def archived(draft: Draft, row: TurnFinished, timing: Timing) -> None:
    """Take the archive's word for a turn: whatever state it is in, the row's outcome stands."""
    turn_id = row.job.turn_id
    turn = draft.turns.get(turn_id)
    if draft.session is not None and draft.session.tombstone:
        return
    if turn is not None and turn.phase == STUB:
        return
    if turn is None and not _expected(draft, turn_id):
        draft.put_turn(_stub(row.job, record.TurnRecord(), draft.now_ms))
        return
    frees_line = turn is None and turn_id in _awaited(draft)
    if turn is None:
        # Its record was lost: the session still counts on it, and must not wait for ever.
        turn = record.TurnRecord(job=row.job, fence=row.outcome.fence)
    if turn.phase != TERMINAL and draft.session is not None:
        _seal_as_archived(draft, turn, row, timing)
    if draft.session is not None:
        _mark_archived(draft, turn_id, row)
    if frees_line:
        promote(draft, timing)
    draft.put_turn(_stub(row.job, turn, draft.now_ms))
    draft.due[turn_id] = None


def _expected(draft: Draft, turn_id: str) -> bool:
    session = draft.session
    return session is not None and turn_id in (
        session.session.active_turn_id,
        *session.waiting_turn_ids,
        *session.unarchived_turn_ids,
        *_awaited(draft),
    )


def _awaited(draft: Draft) -> Sequence[str]:
    """Return the turn that the first in line waits for."""
    first = draft.record.waiting_turn_ids[:1]
    return [draft.turns[turn_id].job.predecessor_turn_id for turn_id in first]


def _seal_as_archived(
    draft: Draft, turn: record.TurnRecord, row: TurnFinished, timing: Timing
) -> None:
    # Of a turn whose record was lost alone after its end the watchers were told before.
    is_news = turn.phase != NO_PHASE or in_line(draft.record, row.job.turn_id)
    draft.next_fence(turn)
    turn.finished.CopyFrom(row)
    turn.phase = TERMINAL
    settle(draft, turn, row.outcome.usage)
    asked = row.job.message
    if row.HasField("answer") and asked.text and not in_window(draft.record, asked.message_id):
        draft.put_message(asked)
    seal(draft, turn, timing)
    if is_news:
        draft.log(turn_ended(turn))
    # The row was made before this seal: the archive learns the session's revision separately.
    changed = SessionChanged(tenant=draft.record.tenant, session=draft.record.session)
    draft.remember(changed)


def _mark_archived(draft: Draft, turn_id: str, row: TurnFinished) -> None:
    session = draft.record
    for entry in session.window:
        if entry.turn_id == turn_id:
            entry.archived = True
    if turn_id in session.unarchived_turn_ids:
        session.unarchived_turn_ids.remove(turn_id)
    session.archived_revision = max(session.archived_revision, row.session.revision)
    trim(draft)
    draft.session_changed = True


def _stub(job: RunTurn, turn: record.TurnRecord, now_ms: int) -> record.TurnRecord:
    """What is left of an archived turn for a day: enough to know it again.

    Its calls, too: what one of them has consumed may be told after its end.
    """
    stub = record.TurnRecord(
        phase=STUB,
        fence=turn.fence,
        attempt=turn.attempt,
        archive_ms=now_ms,
        calls=turn.calls,
    )
    kept = RunTurn(
        tenant=job.tenant,
        user_id=job.user_id,
        turn_id=job.turn_id,
        request_id=job.request_id,
        request_hash=job.request_hash,
    )
    kept.message.session_id = job.message.session_id
    stub.job.CopyFrom(kept)
    return stub
