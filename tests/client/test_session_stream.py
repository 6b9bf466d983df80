"""A session's frames come once each, in order, whatever happens to the connections under them."""

import pytest

from maieutic.v1.session_service_pb2 import SessionFrame, SessionRemoved, SessionTurnStarted
from maieutic_client import InvalidArgument, NotFound, SessionStream
from tests.client.conftest import Served

FRAMES = 5
"""A snapshot, two turns, a new state, and the end; in between one without an event."""


def happen(served: Served) -> None:
    changed = SessionFrame()
    changed.session_changed.session.title = "new"
    served.state.happened[served.session_id] = [
        SessionFrame(turn_id="t1", turn_started=SessionTurnStarted(attempt=1)),
        SessionFrame(),
        SessionFrame(turn_id="t2", turn_started=SessionTurnStarted(attempt=1)),
        changed,
        SessionFrame(session_deleted=SessionRemoved()),
    ]


async def read(stream: SessionStream) -> list[str]:
    return [frame.cursor for frame in [frame async for frame in stream]]


@pytest.mark.parametrize("cut", range(FRAMES))
async def test_a_stream_cut_after_any_frame_goes_on_with_the_next(served: Served, cut: int) -> None:
    happen(served)
    whole = await read(served.client.sessions.watch(served.session_id))
    assert len(whole) == FRAMES
    served.state.cuts = [cut]
    stream = served.client.sessions.watch(served.session_id)
    assert await read(stream) == whole
    assert stream.connects == 2
    assert stream.session is not None
    assert stream.session.title == "new"
    assert stream.deleted


async def test_watching_goes_on_from_a_cursor_of_before(served: Served) -> None:
    happen(served)
    whole = await read(served.client.sessions.watch(served.session_id))
    stream = served.client.sessions.watch(served.session_id, cursor=whole[1])
    assert await read(stream) == whole[2:]


async def test_a_stream_that_ends_without_its_last_frame_is_taken_up_again(served: Served) -> None:
    async with served.client.sessions.watch(served.session_id) as stream:
        assert (await anext(stream)).HasField("snapshot")
        happen(served)
        assert len(await read(stream)) == FRAMES - 1
    assert stream.connects > 1


async def test_what_does_not_pass_by_itself_is_raised(served: Served) -> None:
    with pytest.raises(NotFound):
        await read(served.client.sessions.watch("s" * 48))
    with pytest.raises(InvalidArgument):
        await read(served.client.sessions.watch(served.session_id, cursor="another"))
