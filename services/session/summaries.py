"""Summaries of what agents no longer see word by word: when one begins, and which is kept. Pure.

What agents see is the summary and all messages after it. It is written beside the conversation,
and begun before the window is full, so that usually there is nothing that neither of them holds.
"""

from itertools import accumulate

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.session.v1.record_pb2 import SessionRecord, TurnRecord
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2 import TURN_KIND_SUMMARY
from services.session.accepting import MOST_ASIDE, begin_aside
from services.session.ids import derived
from services.session.lanes import ANALYSIS
from services.session.model import Draft, Timing, timestamp, user_message

STEP = "summary"
MOST_CHARACTERS = 4000
NEWEST_MESSAGES = 10
"""At most so many are left as they were said."""
NEWEST_CHARACTERS = 100_000
"""And at most so much of them, but for the last two messages."""
LEAST_MESSAGES = 8
"""So many more make a summary worth its call. While they are summed up, the conversation has two
turns' time before the first of them leaves the window."""
LEAST_CHARACTERS = 50_000
"""So does so much more, before a model could no longer read it all at once."""


def sum_up(draft: Draft, ended: TurnRecord, timing: Timing) -> None:
    """Begin a summary at the end of a turn, if enough was said that none covers.

    There is one at a time. After one that failed the next is begun once so much more was said: it
    covers it all.
    """
    session = draft.record
    last = session.next_position - 1
    through = last - _newest(session)
    messages = through - session.summary_position
    uncovered = sum(_sizes(session)[: last - session.summary_position])
    enough = messages >= LEAST_MESSAGES or uncovered >= NEWEST_CHARACTERS + LEAST_CHARACTERS
    under_way = session.summary_turn_id in session.side_turn_ids
    room = len(session.side_turn_ids) < MOST_ASIDE
    if messages <= 0 or not enough or under_way or not room or session.session.HasField("end_time"):
        return
    job = _job(ended.job, draft.session_id, through, timing)
    session.summary_turn_id, session.summary_position = job.turn_id, through
    begin_aside(draft, job, timing)


def _sizes(session: SessionRecord) -> list[int]:
    """Return the sizes of the window's messages, newest first."""
    return [entry.size for entry in reversed(session.window)]


def _newest(session: SessionRecord) -> int:
    """Return how many messages are left as they were said: whole exchanges."""
    sizes = _sizes(session)[:NEWEST_MESSAGES]
    fitting = sum(size <= NEWEST_CHARACTERS for size in accumulate(sizes))
    newest = NEWEST_MESSAGES if fitting == len(sizes) else max(2, fitting)
    before, left = session.window[:-newest], session.window[-newest:]
    split = bool(before) and before[-1].turn_id == left[0].turn_id != ""
    return newest + split


def _job(ended: RunTurn, session_id: str, through: int, timing: Timing) -> RunTurn:
    turn_id = derived(session_id, STEP, ended.turn_id, str(through))
    job = RunTurn(
        tenant=ended.tenant,
        user_id=ended.user_id,
        turn_id=turn_id,
        request_id=ended.request_id,
        request_hash=ended.request_hash,
        lane=ANALYSIS,
        message=user_message(turn_id, session_id, ""),
        max_attempts=ended.max_attempts,
        trace_context=ended.trace_context,
        kind=TURN_KIND_SUMMARY,
        steps=[STEP],
        summary_through_position=through,
    )
    job.time_budget.FromMilliseconds(timing.analysis_budget)
    return job


def expect(draft: Draft, job: RunTurn) -> None:
    """Note a summary that came back with its session: no other is begun beside it."""
    session, through = draft.record, job.summary_through_position
    if job.kind == TURN_KIND_SUMMARY and through > session.summary_position:
        session.summary_turn_id, session.summary_position = job.turn_id, through


def named(written: Summary, turn: TurnRecord, now_ms: int) -> Summary:
    """Return an agent's summary as the work of its turn, no longer than may be."""
    summary = Summary()
    summary.CopyFrom(written)
    summary.text = written.text[:MOST_CHARACTERS]
    summary.turn_id = turn.job.turn_id
    summary.create_time.CopyFrom(timestamp(now_ms))
    return summary


def keep(draft: Draft, summary: Summary) -> bool:
    """Let it take the place of the one before; returns whether it did.

    It does not if it covers no more than that one, or if it is not the one that was begun last:
    then what it covers may have been undone since.
    """
    session, kept = draft.record, draft.kept_annotations.findings
    begun = summary.turn_id == session.summary_turn_id
    covers = kept.summary.through_position < summary.through_position <= session.summary_position
    if not begun or not covers or not summary.text.strip():
        return False
    kept.summary.CopyFrom(summary)
    kept.summary.revision = session.session.revision
    session.summary_position = summary.through_position
    return True


def forget(draft: Draft, position: int) -> bool:
    """Give up what covers a message that is undone; returns whether a summary was withdrawn.

    The end of the same turn begins another one.
    """
    session, kept = draft.record, draft.kept_annotations.findings
    if not 0 < position <= session.summary_position:
        return False
    withdrawn = position <= kept.summary.through_position
    if withdrawn:
        kept.ClearField("summary")
    session.summary_turn_id = ""
    session.summary_position = kept.summary.through_position
    return withdrawn
