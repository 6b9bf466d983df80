"""How soon a turn that is cancelled is over, whatever it was doing."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from bench.agents.site import deployed
from bench.load import percentile
from maieutic.v1.turn_service_pb2 import TURN_STATE_CANCELLED
from tests.faults.phases import PHASES, Phase, Place, place_to_stop_in


async def measure_cancelling(rounds: int) -> Mapping[str, float]:
    """Return the milliseconds from the call of CancelTurn to the end of everything.

    That is when the caller has the terminal frame, and what the turn had called sees its client
    leave, whichever is later; for each phase it is the longest of its rounds.
    """
    frames, leaves = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    async with deployed() as site, place_to_stop_in(site.stack, site.client) as place:
        for name, enter in [*PHASES.items()] * rounds:
            async with enter(place) as phase:
                frame, leave = await _cancelled(place, phase)
                place.answer()
            frames[name].append(frame)
            leaves[name].append(leave)
    whole = {name: max(frames[name] + leaves[name]) for name in PHASES}
    return {
        **{f"cancel_{name}_ms": round(longest, 1) for name, longest in whole.items()},
        **_spread("cancel_frame", [one for each in frames.values() for one in each]),
        **_spread("cancel_leave", [one for each in leaves.values() for one in each]),
        "cancel_max_ms": round(max(whole.values()), 1),
    }


async def _cancelled(place: Place, phase: Phase) -> tuple[float, float]:
    """Cancel the turn; returns the milliseconds to its terminal frame, and until it was left."""
    clock = asyncio.get_running_loop().time
    started = clock()

    async def ended() -> float:
        outcome = await phase.stream.result()
        if outcome.state != TURN_STATE_CANCELLED:
            raise RuntimeError(f"the turn has ended otherwise: {outcome}")
        return 1000 * (clock() - started)

    async def left() -> float:
        await place.left()
        return 1000 * (clock() - started)

    frame, leave, _ = await asyncio.gather(
        ended(), left(), place.client.turns.cancel(phase.stream.turn_id)
    )
    return frame, leave


def _spread(name: str, milliseconds: Sequence[float]) -> Mapping[str, float]:
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {f"{name}_{at}_ms": round(percentile(milliseconds, shares[at]), 1) for at in shares}
