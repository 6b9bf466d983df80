"""A stream's frames come once each, in order, whatever happens to the connections under it."""

import asyncio

import pytest

from maieutic.v1 import turn_service_pb2 as pb
from maieutic.v1.artifact_pb2 import Artifact
from maieutic_client import (
    DeadlineExceeded,
    InvalidArgument,
    Maieutic,
    NotFound,
    ResourceExhausted,
    RetryPolicy,
    SessionBusy,
    TurnStream,
    Unavailable,
)
from services.runtime.errors import (
    Cancelled as CancelledHere,
    InvalidArgument as InvalidHere,
    ResourceExhausted as ExhaustedHere,
    Unavailable as UnavailableHere,
)
from services.runtime.server import ServerOptions, serving
from tests.client.conftest import EAGER, Served
from tests.fakes.conversations import Conversations
from tests.fakes.session_service import register_conversations
from tests.proxy import proxy
from tests.waiting import wait_until

TEXT = "one two three four"
FRAMES = 7
"""accepted, started, four deltas, outcome."""


async def read(stream: TurnStream) -> list[pb.TurnFrame]:
    return [frame async for frame in stream]


async def uncut(served: Served) -> list[pb.TurnFrame]:
    return await read(served.client.turns.stream(served.session_id, TEXT, request_id="r1"))


@pytest.mark.parametrize("cut", range(FRAMES))
async def test_a_stream_cut_after_any_frame_goes_on_with_the_next(served: Served, cut: int) -> None:
    whole = await uncut(served)
    served.state.cuts, served.state.opened = [cut], []

    stream = served.client.turns.stream(served.session_id, TEXT, request_id="r1")
    assert await read(stream) == whole
    assert stream.text == "one two three four "
    assert stream.connects == 2
    assert served.state.opened == ["StreamTurn", "WatchTurn" if cut else "StreamTurn"]


async def test_a_stream_cut_after_every_single_frame_still_comes_whole(served: Served) -> None:
    whole = await uncut(served)
    served.state.cuts = [1] * (FRAMES - 1)
    stream = served.client.turns.stream(served.session_id, TEXT, request_id="r1")
    assert await read(stream) == whole
    assert stream.connects == FRAMES


async def test_a_watched_stream_goes_on_after_a_cut_too(served: Served) -> None:
    whole = await uncut(served)
    served.state.cuts = [3]
    stream = served.client.turns.watch(whole[0].turn_id)
    assert await read(stream) == whole
    assert stream.text == "one two three four "


async def test_watching_from_a_cursor_gives_only_the_frames_after_it(served: Served) -> None:
    whole = await uncut(served)
    stream = served.client.turns.watch(whole[0].turn_id, cursor=whole[3].cursor)
    assert await read(stream) == whole[4:]


async def test_a_service_that_is_away_before_the_first_frame_is_asked_again(
    served: Served,
) -> None:
    served.state.cuts = [0, 0, 0]
    stream = served.client.turns.stream(served.session_id, TEXT)
    assert (await stream.result()).text == "one two three four "
    assert served.state.opened == ["StreamTurn"] * 4
    assert len(served.state.turns) == 1


@pytest.mark.parametrize(
    "error",
    [
        UnavailableHere("the replica stops", reason="REPLICA_STOPPING"),
        ExhaustedHere("too many streams", retry_after=0.001),
    ],
)
async def test_what_passes_by_itself_is_waited_for(
    served: Served, error: UnavailableHere | ExhaustedHere
) -> None:
    served.state.cuts, served.state.breaks_with = [2], error
    assert (await served.client.turns.stream(served.session_id, TEXT).result()).text


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (ExhaustedHere("the quota is spent"), ResourceExhausted),
        (InvalidHere("cursor", "is not one of ours"), InvalidArgument),
    ],
)
async def test_what_does_not_pass_by_itself_is_raised_at_once(
    served: Served, error: ExhaustedHere | InvalidHere, raised: type[Exception]
) -> None:
    served.state.cuts, served.state.breaks_with = [2], error
    with pytest.raises(raised):
        await served.client.turns.stream(served.session_id, TEXT).result()
    assert served.state.opened == ["StreamTurn"]


async def test_a_stream_whose_peer_gives_up_on_its_own_account_is_an_error(
    served: Served,
) -> None:
    served.state.cuts, served.state.breaks_with = [2], CancelledHere("told so")
    with pytest.raises(Exception, match="told so"):
        await served.client.turns.stream(served.session_id, TEXT).result()


async def test_a_connection_that_breaks_under_a_stream_is_replaced() -> None:
    state = Conversations(owner=lambda: ("acme", "ann"), hold=asyncio.Event())
    async with (
        serving(
            ServerOptions(grace=0.5, stream_grace=0.1), register_conversations(state)
        ) as server,
        proxy(server.port) as link,
        Maieutic.connect(f"127.0.0.1:{link.port}", api_key="mk_any", retry=EAGER) as client,
    ):
        session = await client.sessions.create()
        stream = client.turns.stream(session.session_id, TEXT)
        kinds = [(await anext(stream)).WhichOneof("event") for _ in range(FRAMES - 1)]
        await link.cut()
        assert state.hold is not None
        state.hold.set()
        kinds += [frame.WhichOneof("event") async for frame in stream]
    assert kinds == ["accepted", "started", *["delta"] * 4, "outcome"]
    assert stream.connects == 2


async def test_a_stream_survives_its_server_and_goes_on_at_the_next_one() -> None:
    """The drain ends streams so that callers resume elsewhere: here at the same address."""
    state = Conversations(owner=lambda: ("acme", "ann"), hold=asyncio.Event())
    options = ServerOptions(grace=0.5, stream_grace=0.05)
    async with serving(options, register_conversations(state)) as first:
        client = Maieutic.connect(first.address, api_key="mk_any", retry=EAGER)
        session = await client.sessions.create()
        stream = client.turns.stream(session.session_id, TEXT)
        await anext(stream)
    assert state.hold is not None
    state.hold.set()
    again = ServerOptions(listen=first.address, grace=0.5, stream_grace=0.05)
    async with serving(again, register_conversations(state)), client:
        assert (await stream.result()).text == "one two three four "
    assert stream.text == "one two three four "


def attempts(turn_id: str, text: str) -> list[pb.TurnFrame]:
    """Say something, fail, say it again."""
    return [
        pb.TurnFrame(started=pb.TurnStarted(attempt=1)),
        pb.TurnFrame(delta=pb.TurnDelta(text="void ")),
        pb.TurnFrame(notice=pb.TurnNotice(code="SEARCHING")),
        pb.TurnFrame(started=pb.TurnStarted(attempt=2)),
        pb.TurnFrame(delta=pb.TurnDelta(text="good ")),
        pb.TurnFrame(snapshot=pb.TurnSnapshot(text="good and ")),
        pb.TurnFrame(delta=pb.TurnDelta(text="whole")),
        pb.TurnFrame(
            outcome=pb.TurnOutcome(state=pb.TURN_STATE_COMPLETED, text="good and whole", attempts=2)
        ),
    ]


@pytest.mark.parametrize("cut", [None, *range(9)])
async def test_the_text_so_far_is_that_of_the_present_attempt(
    served: Served, cut: int | None
) -> None:
    served.state.answer = attempts
    served.state.cuts = [] if cut is None else [cut]
    stream = served.client.turns.stream(served.session_id, TEXT)
    texts = [(stream.text, stream.attempt) async for _ in stream]
    assert texts == [
        ("", 0),
        ("", 1),
        ("void ", 1),
        ("void ", 1),
        ("", 2),
        ("good ", 2),
        ("good and ", 2),
        ("good and whole", 2),
        ("good and whole", 2),
    ]
    assert (await stream.result()).attempts == 2


async def test_a_log_that_is_gone_gives_the_text_by_snapshot(served: Served) -> None:
    whole = await uncut(served)
    turn_id, last = whole[0].turn_id, whole[-1]
    snapshot = pb.TurnFrame(turn_id=turn_id, cursor="s", snapshot=pb.TurnSnapshot(text="one two"))
    served.state.frames[turn_id] = [snapshot, last]
    stream = served.client.turns.watch(turn_id)
    assert await read(stream) == [snapshot, last]
    assert stream.text == "one two three four "


async def test_a_gap_gives_the_text_that_is_left_and_says_if_some_is_missing(
    served: Served,
) -> None:
    def torn(turn_id: str, text: str) -> list[pb.TurnFrame]:
        snapshot = pb.TurnSnapshot(text="one two three")
        return [
            pb.TurnFrame(started=pb.TurnStarted(attempt=1)),
            pb.TurnFrame(delta=pb.TurnDelta(text="one ")),
            pb.TurnFrame(gap=pb.TurnGap(text="one three", text_incomplete=True)),
            pb.TurnFrame(snapshot=snapshot),
            pb.TurnFrame(gap=pb.TurnGap(text="one", attempt=2, text_incomplete=True)),
            pb.TurnFrame(delta=pb.TurnDelta(text=" four")),
            pb.TurnFrame(gap=pb.TurnGap(text="one two three four")),
            pb.TurnFrame(outcome=pb.TurnOutcome(text="one two three four")),
        ]

    served.state.answer = torn
    stream = served.client.turns.stream(served.session_id, TEXT)
    told = [(stream.text, stream.text_incomplete, stream.attempt) async for _ in stream]
    assert told[2:] == [
        ("one ", False, 1),
        ("one three", True, 1),
        ("one two three", False, 1),
        ("one", True, 2),
        ("one four", True, 2),
        ("one two three four", False, 2),
        ("one two three four", False, 2),
    ]


async def test_a_stream_gives_up_when_the_service_stays_away(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.state.cuts = [2] + [0] * 10_000
    patient = RetryPolicy(first_delay=0.001, longest_delay=0.001, give_up_after=10.0)
    loop = asyncio.get_running_loop()
    clock = loop.time
    async with Maieutic.connect(served.server.address, api_key="mk_any", retry=patient) as client:
        stream = client.turns.stream(served.session_id, TEXT)
        # With the third connection time passes that is too long for this policy.
        monkeypatch.setattr(loop, "time", lambda: clock() + 15.0 * (stream.connects > 2))
        with pytest.raises(Unavailable, match="cut by the test"):
            await stream.result()
    assert stream.turn_id
    assert stream.connects == 3


async def test_a_stream_gives_up_at_its_deadline_and_says_that_the_turn_goes_on(
    served: Served,
) -> None:
    served.state.hold = asyncio.Event()
    turn = await served.client.turns.begin(served.session_id, TEXT)
    stream = served.client.turns.watch(turn.turn_id, timeout=0.3)
    with pytest.raises(DeadlineExceeded, match="goes on"):
        await stream.result()

    served.state.hold.set()
    rest = await read(served.client.turns.watch(turn.turn_id, cursor=stream.cursor))
    assert rest[-1].HasField("outcome")


async def test_a_reader_that_is_cancelled_may_read_on(served: Served) -> None:
    served.state.hold = asyncio.Event()
    stream = served.client.turns.stream(served.session_id, TEXT)
    for _ in range(FRAMES - 1):
        await anext(stream)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.05)
    served.state.hold.set()
    assert (await anext(stream)).HasField("outcome")
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_leaving_a_stream_ends_the_call(served: Served) -> None:
    served.state.hold = asyncio.Event()
    async with served.client.turns.stream(served.session_id, TEXT) as stream:
        await anext(stream)
        assert served.state.open_streams == 1
    await wait_until(lambda: served.state.open_streams == 0)


async def test_a_result_can_be_asked_for_again(served: Served) -> None:
    stream = served.client.turns.stream(served.session_id, TEXT)
    assert await stream.result() is await stream.result()


async def test_errors_of_the_first_call_have_their_types(served: Served) -> None:
    with pytest.raises(SessionBusy):
        await served.client.turns.stream(served.session_id, "busy").result()
    with pytest.raises(NotFound):
        await served.client.turns.watch("t" * 48).result()


async def test_at_the_end_of_a_code_turn_its_files_are_those_of_its_outcome(served: Served) -> None:
    """Also where a frame is missing, or tells of a file that an attempt has made which was lost."""
    made = [Artifact(artifact_id=path, path=path) for path in ("b.py", "c.py", "a.py")]
    planned = [pb.ManifestFile(path=path) for path in ("a.py", "b.py", "c.py")]
    outcome = pb.TurnOutcome(
        state=pb.TURN_STATE_CANCELLED,
        artifacts=made[:2],
        findings=pb.Findings(manifest=pb.CodeManifest(files=planned)),
    )
    served.state.answer = lambda turn_id, text: [
        pb.TurnFrame(file=pb.TurnFile(path="a.py", index=1, total=3, artifact=made[2])),
        pb.TurnFrame(file=pb.TurnFile(path="b.py", index=2, total=3)),
        pb.TurnFrame(outcome=outcome),
    ]
    stream = served.client.turns.generate_code(served.session_id, "Go.")
    await stream.result()
    assert [(place, one.path) for place, one in stream.files.items()] == [(2, "b.py"), (3, "c.py")]
    assert [one.artifact for one in stream.files.values()] == made[:2]
