"""What archived turns have consumed. Pure."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from maieutic.v1.session_service_pb2 import ModelUsage, SessionStatistics
from maieutic.v1.turn_service_pb2 import TurnState
from services.persistence.model import ACCEPTED


class EndedTurn(NamedTuple):
    """What is counted of a turn's row."""

    state: str
    attempts: int
    start_time: datetime | None
    finish_time: datetime | None


def statistics(turns: Iterable[EndedTurn], usage: Iterable[ModelUsage]) -> SessionStatistics:
    """Add up turns and what their models have used."""
    counts: Counter[int] = Counter()
    durations = [timedelta()]
    retries = 0
    for turn in turns:
        state = "QUEUED" if turn.state == ACCEPTED else turn.state
        # A newer version's state is kept as its number.
        counts[int(state) if state.isdigit() else TurnState.Value(f"TURN_STATE_{state}")] += 1
        retries += max(0, turn.attempts - 1)
        if turn.start_time is not None and turn.finish_time is not None:
            durations.append(turn.finish_time - turn.start_time)
    found = SessionStatistics(retry_count=retries, usage=usage)
    for state_number, count in sorted(counts.items()):
        found.turns.add(state=TurnState.ValueType(state_number), count=count)
    found.total_duration.FromTimedelta(sum(durations, timedelta()))
    found.longest_duration.FromTimedelta(max(durations))
    return found
