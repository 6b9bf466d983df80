"""What a turn begins beside the conversation, together with its outcome. Pure."""

from collections.abc import Sequence

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.v1.turn_service_pb2 import HandedOn
from services.session.accepting import begin_aside
from services.session.errors import SessionBudgetSpent, SessionEnded, SideTurnsFull
from services.session.model import Draft, Timing
from services.session.spending import require_unspent
from services.session.updating import require_open


def begin_handed_on(draft: Draft, jobs: Sequence[RunTurn], timing: Timing) -> list[HandedOn]:
    """Begin the jobs, each once; one that cannot begin says why, and is no failure of the turn.

    The draft has those that were begun before, as by a turn whose outcome the store has lost.
    """
    each = {job.turn_id: job for job in jobs}
    return [_begin(draft, job, timing) for job in each.values()]


def _begin(draft: Draft, job: RunTurn, timing: Timing) -> HandedOn:
    if job.turn_id not in draft.turns:
        try:
            require_open(draft.record)
            require_unspent(draft.record)
            begin_aside(draft, job, timing)
        except (SessionEnded, SessionBudgetSpent, SideTurnsFull) as refusal:
            return HandedOn(kind=job.kind, problem=refusal.message)
    return HandedOn(kind=job.kind, turn_id=job.turn_id)
