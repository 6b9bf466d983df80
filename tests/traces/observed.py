"""A deployment and what it shows of itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.runtime import names
from tests.collector import Collector, Received
from tests.stack import RealStack
from tests.waiting import wait_until

PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A stack whose every process exports."""

    stack: RealStack
    collector: Collector
    endpoint: str
    """Where the collector takes spans."""
    pages: Mapping[str, str]
    """The address of each service's metrics."""

    def turn(self, turn_id: str) -> list[Received]:
        """Return the spans of the trace in which a turn runs."""
        spans = self.collector.spans()
        traces = {one.trace_id for one in spans if one.attribute("maieutic.turn") == turn_id}
        return [one for one in spans if one.trace_id in traces]

    async def whole_turn(self, turn_id: str) -> list[Received]:
        """Wait until every process has sent what it has of a turn, from its caller to its row."""
        try:
            await wait_until(lambda: not missing(self.turn(turn_id)), PATIENCE, every=0.05)
        except AssertionError as error:
            here = self.turn(turn_id)
            raise AssertionError(
                f"of {[str(each) for each in here]} is missing: {missing(here)}"
            ) from error
        return self.turn(turn_id)


FIRST = "client CLIENT maieutic.v1.TurnService/StreamTurn"
LAST = "persistence CONSUMER archive turn.finished"


def one(spans: Sequence[Received], text: str) -> Received:
    """Return the only span of that service, kind and name."""
    (found,) = [each for each in spans if str(each) == text]
    return found


def missing(spans: Sequence[Received]) -> list[str]:
    """Return what a turn's spans still lack: its ends, a parent, or the other side of a call."""
    ids = {each.span.span_id for each in spans}
    parents = {each.span.parent_span_id for each in spans}
    # One that failed may never have got there; it was made again.
    calls = [each for each in spans if each.attribute(names.PEER) and not each.failed]
    return [
        *({FIRST, LAST} - {str(each) for each in spans}),
        *(f"above {each}" for each in spans if each.span.parent_span_id not in {b"", *ids}),
        *(f"below {call}" for call in calls if call.span.span_id not in parents),
    ]
