"""How often a turn is tried, step by step. Pure."""

from maieutic.session.v1.record_pb2 import TurnRecord
from services.session.model import LEASED

LOSSES_BESIDE = 2
"""A turn that was lost so often beside others runs apart from them."""


def attempts_spent(turn: TurnRecord) -> bool:
    """Whether the turn may not be tried again.

    What counts are the attempts at one step: one that was finished ends a row of failures. One
    that was lost with a worker that ran other turns, too, says little about this one.
    """
    earlier = max(0, _finished_in(turn) - 1)
    return turn.attempt - earlier - _lost_beside(turn) >= turn.job.max_attempts


def is_suspect(turn: TurnRecord) -> bool:
    """Whether the job may be what its worker died of: then it is to hurt no neighbour.

    One that finished a step in this attempt is not, yet: long jobs would keep all suspects waiting.
    Neither is one that has lost its first worker beside others, any of which may be the reason.
    """
    if turn.phase != LEASED or _finished_in(turn) == turn.attempt:
        return False
    return not turn.beside or _lost_beside(turn) >= LOSSES_BESIDE


def _lost_beside(turn: TurnRecord) -> int:
    """Return the attempts that do not count, with the one under way if it is lost as well."""
    return turn.excused + turn.beside


def _finished_in(turn: TurnRecord) -> int:
    """Return the attempt in which a step was finished last; 0 if none was."""
    return turn.finished_steps[-1].attempt if turn.finished_steps else 0
