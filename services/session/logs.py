"""Reading a turn's event log as a whole."""

from maieutic.v1.turn_service_pb2 import TurnFrame
from services.session.ports import SessionStore

PAGE = 500


async def read_log(store: SessionStore, turn_id: str) -> list[TurnFrame]:
    """Return all frames of a turn's log; none if it is gone."""
    frames: list[TurnFrame] = []
    after = None
    while page := await store.events(turn_id, after, PAGE):
        frames += [frame for _, frame in page]
        after = page[-1][0]
    return frames
