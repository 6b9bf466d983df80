"""What a commit says of turns, as metrics. Times are the store's own."""

from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.v1.turn_service_pb2 import TurnFrame, TurnState
from services.runtime import names, telemetry
from services.session.model import Draft, milliseconds


def committed(draft: Draft) -> None:
    """Count the turns that a committed draft has started and ended."""
    for turn_id, _, frame in draft.events:
        if (turn := draft.turns.get(turn_id)) is None:
            continue  # removed by the same commit
        if frame.HasField("outcome"):
            _ended(turn, frame)
        elif frame.HasField("started") and frame.started.attempt == 1:
            _started(turn)


def _started(turn: TurnRecord) -> None:
    waited = turn.start_ms - milliseconds(turn.job.create_time)
    histogram = telemetry.current().histogram(names.QUEUE_WAIT)
    histogram.record(waited / 1000, {names.LANE: turn.job.lane})


def _ended(turn: TurnRecord, frame: TurnFrame) -> None:
    outcome, meters = frame.outcome, telemetry.current()
    attributes = {
        names.LANE: turn.job.lane,
        names.TURN_STATE: _name(outcome.state),
    }
    took = milliseconds(outcome.finish_time) - milliseconds(turn.job.create_time)
    meters.histogram(names.TURN_DURATION).record(took / 1000, attributes)
    if outcome.reason:
        attributes[names.TURN_REASON] = outcome.reason
    meters.counter(names.TURNS_ENDED).add(1, attributes)


def _name(state: TurnState.ValueType) -> str:
    """Return a state's name; a newer version's, of which the archive told, as its number."""
    if state not in TurnState.values():
        return str(state)
    return TurnState.Name(state).removeprefix("TURN_STATE_")
