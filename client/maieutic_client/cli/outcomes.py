"""How turns end, in words."""

from maieutic.v1.turn_service_pb2 import TurnOutcome, TurnState
from maieutic_client.cli.values import spoken


def state_name(state: TurnState.ValueType) -> str:
    """Return a state as people say it; a newer version's as its number."""
    return spoken(TurnState.DESCRIPTOR, state)


def ending(outcome: TurnOutcome) -> str:
    """Return how a turn ended, and why."""
    why = ": ".join(part for part in (outcome.reason, outcome.explanation) if part)
    return f"the turn is {state_name(outcome.state)}{f' ({why})' if why else ''}"
