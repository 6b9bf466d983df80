"""How often a turn is tried, step by step. Pure."""

from maieutic.session.v1.record_pb2 import TurnRecord
from services.session.model import LEASED


def attempts_spent(turn: TurnRecord) -> bool:
    """Whether the turn may not be tried again.

    What counts are the attempts at one step: one that was finished ends a row of failures.
    """
    return turn.attempt - max(0, _finished_in(turn) - 1) >= turn.job.max_attempts


def is_suspect(turn: TurnRecord) -> bool:
    """Whether the job may be what its worker died of: then it is to hurt no neighbour.

    One that finished a step in this attempt is not, yet: long jobs would keep all suspects waiting.
    """
    return turn.phase == LEASED and _finished_in(turn) != turn.attempt


def _finished_in(turn: TurnRecord) -> int:
    """Return the attempt in which a step was finished last; 0 if none was."""
    return turn.finished_steps[-1].attempt if turn.finished_steps else 0
