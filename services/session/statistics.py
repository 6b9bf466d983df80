"""What a session has consumed: the archive's sums and what is not archived yet."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta

from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.turn_service_pb2 import Turn, TurnState
from services.session.archive import Archive
from services.session.ids import checked
from services.session.live import LiveSessions, owned
from services.session.model import STUB, Caller
from services.session.ports import SessionStore
from services.session.views import public_turn


class Statistics:
    """Adds up turns. Each counts once: here while it is not archived, else in the archive."""

    def __init__(self, *, store: SessionStore, live: LiveSessions, archive: Archive) -> None:
        self._store = store
        self._live = live
        self._archive = archive

    async def of(self, caller: Caller, session_id: str) -> pb.SessionStatistics:
        """Return the statistics of the caller's session. Raises NotFound and Unavailable."""
        checked("session_id", session_id)
        record, _ = await self._live.transact(
            session_id, lambda d: owned(d.session, session_id, caller.tenant, caller.user)
        )
        found = await self._store.turns(record.unarchived_turn_ids)
        here = _unarchived(found)
        # Read after the turns: one that is archived meanwhile is left out there, not counted twice.
        archived = await self._archive.statistics(session_id, [turn.turn_id for turn in here])
        total = added(archived, here)
        total.message_count = record.session.message_count
        total.document_count = len(record.session.document_ids)
        return total


def _unarchived(found: Iterable[TurnRecord | None]) -> list[Turn]:
    return [public_turn(turn) for turn in found if turn is not None and turn.phase != STUB]


def added(archived: pb.SessionStatistics, turns: Sequence[Turn]) -> pb.SessionStatistics:
    """Return the archive's sums with these turns added."""
    counts: Counter[TurnState.ValueType] = Counter()
    for counted in archived.turns:
        counts[counted.state] += counted.count
    counts.update(turn.state for turn in turns)
    durations = [_duration(turn) for turn in turns if turn.HasField("outcome")]
    retries = sum(max(0, turn.attempt - 1) for turn in turns)
    total = pb.SessionStatistics(retry_count=archived.retry_count + retries)
    for state, count in sorted(counts.items()):
        total.turns.add(state=state, count=count)
    spent = archived.total_duration.ToTimedelta() + sum(durations, timedelta())
    longest = max([archived.longest_duration.ToTimedelta(), *durations])
    total.total_duration.FromTimedelta(spent)
    total.longest_duration.FromTimedelta(longest)
    total.usage.extend(_usage(archived.usage, turns))
    return total


def _duration(turn: Turn) -> timedelta:
    if not turn.HasField("start_time"):
        return timedelta()
    spent = turn.finish_time.ToMicroseconds() - turn.start_time.ToMicroseconds()
    return timedelta(microseconds=spent)


def _usage(archived: Iterable[pb.ModelUsage], turns: Sequence[Turn]) -> list[pb.ModelUsage]:
    """Return one entry for each model and currency: a sum over currencies would mean nothing."""
    models = {(used.model, used.currency): used for used in archived}
    for step in (step for turn in turns for step in turn.outcome.usage):
        currency = step.currency if step.HasField("cost_micros") else ""
        used = models.setdefault(
            (step.model, currency), pb.ModelUsage(model=step.model, currency=currency)
        )
        used.call_count += 1
        used.input_tokens += step.input_tokens
        used.output_tokens += step.output_tokens
        used.cached_tokens += step.cached_tokens
        used.cache_write_tokens += step.cache_write_tokens
        if currency:
            used.cost_micros += step.cost_micros
        spent = used.duration.ToTimedelta() + step.duration.ToTimedelta()
        used.duration.FromTimedelta(spent)
    return [models[model] for model in sorted(models)]
