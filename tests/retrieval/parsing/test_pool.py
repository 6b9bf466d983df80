"""The processes that parse: what they cost, and what ends them."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import uvloop

from services.retrieval.errors import BadDocument, ParserUnavailable
from services.retrieval.parsing.model import Form
from services.retrieval.parsing.parser import Parser
from services.retrieval.settings import ParsingOptions
from tests.retrieval.parsing.files import docx, paragraph, pdf

SMALL = pdf(["a page"])


@cache
def slow() -> bytes:
    """Return a DOCX that takes seconds of processor time."""
    return docx("<w:p/>" * 2_000_000)


Workers = Callable[[], list[psutil.Process]]


@pytest.fixture
def workers() -> Workers:
    """Return the processes that were started since, without what they forked."""
    before = psutil.Process().children()
    return lambda: [one for one in psutil.Process().children() if one not in before]


async def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "never came true"
        await asyncio.sleep(0.01)


def busy(process: psutil.Process) -> list[psutil.Process]:
    """Return the fork that has been parsing for a while."""
    with suppress(psutil.Error):
        return [fork for fork in process.children() if fork.cpu_times().user >= 0.05]
    return []


async def read(parser: Parser, data: bytes = SMALL, form: Form = Form.PDF) -> str:
    return (await parser.parse(data, form=form, name="a")).content.text


async def test_no_process_is_started_before_it_is_needed_and_none_is_left(workers: Workers) -> None:
    async with Parser.open(ParsingOptions(processes=2)) as parser:
        await read(parser, b"text", Form.TEXT)
        assert not workers()
        await asyncio.gather(*(read(parser) for _ in range(8)))
        assert len(workers()) == 2
    assert not workers()


async def test_a_process_is_used_again_and_each_document_has_a_fork_of_it(workers: Workers) -> None:
    async with Parser.open(ParsingOptions(processes=1)) as parser:
        await read(parser)
        (process,) = workers()
        with pytest.raises(BadDocument):
            await read(parser, b"%PDF-1.4 broken")
        started, processor = time.process_time(), process.cpu_times()
        for _ in range(20):
            assert await read(parser) == "a page"
        assert workers() == [process]
        used = process.cpu_times()
        forks = used.children_user + used.children_system
        forks -= processor.children_user + processor.children_system
        print(  # noqa: T201 - the figures, with pytest -s
            f"a page of PDF: {50 * (time.process_time() - started):.1f} ms of this process, "
            f"{50 * forks:.1f} ms of its fork"
        )


async def test_a_document_that_takes_too_much_processor_time_is_refused() -> None:
    async with Parser.open(ParsingOptions(processes=1, seconds=1)) as parser:
        with pytest.raises(BadDocument, match="more than 1 s"):
            await read(parser, slow(), Form.DOCX)
        assert await read(parser) == "a page"


async def test_a_document_that_takes_too_much_memory_is_refused() -> None:
    async with Parser.open(ParsingOptions(processes=1, memory=140)) as parser:
        with pytest.raises(BadDocument, match="140 MiB"):
            await read(parser, docx(paragraph("wörd " * 5_000_000)), Form.DOCX)
        assert await read(parser) == "a page"


async def test_a_caller_who_leaves_takes_the_process_along_and_frees_its_place(
    workers: Workers,
) -> None:
    async with Parser.open(ParsingOptions(processes=1)) as parser:
        await read(parser)
        (process,) = workers()
        leaving = asyncio.create_task(read(parser, slow(), Form.DOCX))
        await until(lambda: busy(process))
        leaving.cancel()
        await asyncio.wait([leaving])
        assert leaving.cancelled()
        assert not process.is_running()
        assert await read(parser) == "a page"


async def test_a_document_whose_process_is_killed_is_read_by_another_and_refused_after_that(
    workers: Workers,
) -> None:
    async with Parser.open(ParsingOptions(processes=1)) as parser:
        await read(parser)
        (process,) = workers()
        reading = asyncio.create_task(read(parser, slow(), Form.DOCX))
        await until(lambda: busy(process))
        busy(process)[0].kill()
        await until(lambda: workers() not in ([], [process]))
        (other,) = (one for one in workers() if one != process)
        await until(lambda: busy(other))
        busy(other)[0].kill()
        with pytest.raises(BadDocument, match="killed twice"):
            await reading
        assert await read(parser) == "a page"


async def test_an_idle_process_that_is_killed_costs_no_answer(workers: Workers) -> None:
    async with Parser.open(ParsingOptions(processes=1)) as parser:
        await read(parser)
        (process,) = workers()
        os.kill(process.pid, signal.SIGKILL)
        assert await read(parser) == "a page"


async def test_where_no_process_can_be_started_documents_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Parser.open(ParsingOptions(processes=1)) as parser:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(ParserUnavailable, match="started"):
                await read(parser)
        with monkeypatch.context() as patch:
            patch.setattr("services.retrieval.parsing.pool.CHILD", "no.such.module")
            with pytest.raises(ParserUnavailable, match="status 1"):
                await read(parser)
        assert await read(parser) == "a page"


async def test_a_process_that_parses_knows_no_secret_of_the_service(
    monkeypatch: pytest.MonkeyPatch, workers: Workers
) -> None:
    monkeypatch.setenv("PINECONE_API_KEY", "secret")
    async with Parser.open(ParsingOptions(processes=1)) as parser:
        await read(parser)
        (process,) = workers()
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
    assert set(environment.split(b"\0")) <= {b""} | {
        one for one in environment.split(b"\0") if one.startswith(b"PYTHONPATH=")
    }


def test_processes_start_beside_busy_calls_on_the_event_loop_of_the_service() -> None:
    """Forked with the handlers of gRPC, some would die before they are what they are to be."""

    async def call(channel: Any) -> None:  # the stubs know no calls with plain bytes
        while True:
            with suppress(grpc.aio.AioRpcError):
                await channel.unary_unary("/nobody/answers")(b"")

    async def parse_beside_calls() -> list[str]:
        server = grpc.aio.server()
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            calling = [asyncio.create_task(call(channel)) for _ in range(4)]
            try:
                return [await _read_by_a_new_process() for _ in range(8)]
            finally:
                for one in calling:
                    one.cancel()
                await server.stop(None)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(parse_beside_calls()) == ["a page"] * 8


async def _read_by_a_new_process() -> str:
    async with Parser.open(ParsingOptions(processes=1)) as parser:
        return await read(parser)
