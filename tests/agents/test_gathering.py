"""Pieces gather while hundreds of answers are under way."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from services.agents.adapters import gathering
from services.agents.adapters.claude import ClaudeModel, claude
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.adapters.gathering import FEW, MOST_SECONDS, Gathering
from services.agents.errors import ModelUnavailable
from services.agents.ports import Author, ModelMessage, ModelRequest, TextDelta
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_plan import Rule
from tests.waiting import wait_until

TEXT = " ".join(f"word{number}" for number in range(40))
REQUEST = ModelRequest(
    turn_id="turn-1", system="", messages=(ModelMessage(author=Author.USER, text="Hello?"),)
)


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with anthropic_emulator() as running:
        running.plan = [Rule(text=TEXT, delay=0.005)]
        yield running


@pytest.fixture
async def model(emulator: Emulator) -> AsyncIterator[ClaudeModel]:
    options = ClaudeOptions(api_key="key", base_url=emulator.url)
    async with claude(options, connections=9) as ready:
        yield ready


@contextmanager
def under_way(answers: int, place: Gathering) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(answers):
            stack.enter_context(place.answer())
        yield


class Line(asyncio.ReadTransport):
    """What pieces come from."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[str] = []
        self.reading = True

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False
        self.changes.append("paused")

    def resume_reading(self) -> None:
        self.reading = True
        self.changes.append("resumed")


async def pieces_of(model: ClaudeModel) -> list[str]:
    async with model.stream(REQUEST) as events:
        return [event.text async for event in events if isinstance(event, TextDelta)]


async def test_a_few_answers_do_not_wait() -> None:
    place = Gathering()
    with under_way(FEW - 1, place), pytest.raises(StopIteration):
        place.pause(None).send(None)


def test_the_more_answers_the_longer_they_gather_up_to_a_limit() -> None:
    place, seconds = Gathering(), list[float]()
    for answers in (FEW - 1, FEW, FEW + 1, 100 * FEW):
        with under_way(answers, place):
            seconds.append(place.seconds)
    none, few, more, most = seconds
    assert (none, most) == (0, MOST_SECONDS)
    assert 0 < few < more < most
    assert place.seconds == 0


async def test_pieces_gather_where_nobody_is_woken_for_each_of_them() -> None:
    place, line = Gathering(), Line()
    with under_way(FEW, place):
        wait = asyncio.create_task(place.pause(line))
        await wait_until(lambda: line.changes == ["paused"])
        await wait
        assert line.changes == ["paused", "resumed"]
        wait = asyncio.create_task(place.pause(line))
        await wait_until(lambda: not line.reading)
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait
        assert line.reading


async def test_a_line_that_somebody_else_holds_back_is_left_alone() -> None:
    place, line = Gathering(), Line()
    line.reading = False
    with under_way(FEW, place):
        await place.pause(line)
    assert line.changes == []


async def test_the_line_of_an_answer_is_held_with_the_installed_sdk(
    emulator: Emulator, model: ClaudeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[asyncio.ReadTransport | None] = []
    pause = model.gathering.pause

    async def noting(transport: asyncio.ReadTransport | None) -> None:
        held.append(transport)
        await pause(transport)

    monkeypatch.setattr(model.gathering, "pause", noting)
    assert "".join(await pieces_of(model)) == TEXT
    assert held
    assert held[0] is not None
    assert held[0].is_reading()


async def test_an_answer_that_gathers_is_complete_and_in_order(model: ClaudeModel) -> None:
    with under_way(FEW, model.gathering):
        pieces = await pieces_of(model)
    assert "".join(pieces) == TEXT
    assert len(pieces) < len(TEXT.split())


@pytest.mark.parametrize("breaks", ["reset", "end", "error", "malformed"])
async def test_an_answer_that_breaks_while_its_pieces_gather_may_be_tried_again(
    emulator: Emulator, model: ClaudeModel, breaks: Any
) -> None:
    emulator.plan = [Rule(text=TEXT, delay=0.005, breaks=breaks, after=20, times=1)]
    with under_way(FEW, model.gathering):
        with pytest.raises(ModelUnavailable):
            await pieces_of(model)
        assert await pieces_of(model)


async def test_an_answer_is_counted_while_it_is_read(
    model: ClaudeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "FEW", 2)
    seconds = [model.gathering.seconds]
    async with model.stream(REQUEST) as one, model.stream(REQUEST) as other:
        for events in (one, other):
            await anext(aiter(events))
            seconds.append(model.gathering.seconds)
    seconds.append(model.gathering.seconds)
    assert [bool(each) for each in seconds] == [False, False, True, False]


async def test_the_first_piece_is_not_held_back_and_a_cancel_ends_the_wait(
    emulator: Emulator, model: ClaudeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MOST_SECONDS", 3600)
    monkeypatch.setattr(gathering, "SECONDS_PER_ANSWER", 3600)
    seen: list[str] = []

    async def read() -> None:
        async with model.stream(REQUEST) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    seen.append(event.text)  # noqa: PERF401 - what comes before the cancel

    with under_way(FEW, model.gathering):
        call = asyncio.create_task(read())
        await wait_until(lambda: bool(seen))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert TEXT.startswith(seen[0])
    assert len(seen) == 1
    await wait_until(lambda: emulator.requests[0].end == "left")
