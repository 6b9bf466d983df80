"""Processes that parse untrusted bytes: few, bounded in memory and time, killed when left."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any, Self

from services.retrieval.errors import ParserUnavailable
from services.retrieval.parsing.model import Form, Limits, Unreadable
from services.retrieval.parsing.protocol import BYTES_A_BYTE, LENGTH, Ending

log = logging.getLogger(__name__)

CHILD = "services.retrieval.parsing.child"
PATIENCE = 10
"""So many times its processor time a document may take while others have the processor."""


class ParserPool:
    """Parses at most *processes* documents at a time; further ones wait their turn."""

    def __init__(self, *, processes: int, memory: int, seconds: int) -> None:
        """Give each document that many MiB of address space and seconds of processor time."""
        self._free = asyncio.Semaphore(processes)
        self._memory = memory
        self._seconds = seconds
        self._idle: list[_Child] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, *, processes: int, memory: int, seconds: int) -> AsyncIterator[Self]:
        """Parse during the block; a process is started when it is first needed."""
        pool = cls(processes=processes, memory=memory, seconds=seconds)
        try:
            yield pool
        finally:
            for child in pool._idle:
                await child.kill()

    async def pages(self, data: bytes, form: Form, limits: Limits) -> list[str]:
        """Return the text of each page; one if the form has no pages.

        Raises Unreadable, and ParserUnavailable if the document is not to blame.
        """
        bounds = {"memory": self._memory, "seconds": self._seconds}
        asked = json.dumps({"form": form, "limits": asdict(limits), **bounds}).encode()
        longest = BYTES_A_BYTE * limits.text_bytes + 2**20
        answer = await self._answer(asked, data, longest)
        log.debug("parsed", extra={"form": form, "peak_kib": answer["peak"]})
        if "problem" in answer:
            raise Unreadable(answer["problem"], page=answer["page"])
        pages: list[str] = answer["pages"]
        return pages

    async def _answer(self, asked: bytes, data: bytes, longest: int) -> dict[str, Any]:
        with suppress(ChildKilled):
            return await self._asked_once(asked, data, longest)
        # Once is nobody's fault. Twice, the system has no memory for this document.
        try:
            return await self._asked_once(asked, data, longest)
        except ChildKilled as error:
            problem = "is too large for this machine: its parser was killed twice"
            raise Unreadable(problem) from error

    async def _asked_once(self, asked: bytes, data: bytes, longest: int) -> dict[str, Any]:
        async with self._child() as child:
            try:
                async with asyncio.timeout(PATIENCE * self._seconds):
                    return await child.ask(asked, data, longest=longest)
            except TimeoutError as error:
                raise ParserUnavailable("parsing waits too long for a processor") from error
            except ChildEnded as error:
                raise self._no_answer(error.status) from error

    @asynccontextmanager
    async def _child(self) -> AsyncIterator["_Child"]:
        """Hold a process; one that is left before its answer is killed."""
        async with self._free:
            child = self._idle.pop() if self._idle else await _Child.start()
            try:
                yield child
            except BaseException:
                await child.kill()
                raise
            self._idle.append(child)

    def _no_answer(self, status: int) -> Exception:
        if status == Ending.TOO_LONG:
            return Unreadable(f"takes more than {self._seconds} s to be read: split it")
        if status == Ending.CRASHED:
            return Unreadable(f"is broken, or needs more than {self._memory} MiB to be read")
        if status in (Ending.KILLED, -signal.SIGKILL):
            return ChildKilled(status)
        return ParserUnavailable(f"the process that parses ended with status {status}")


class ChildEnded(Exception):
    """The process has ended without an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class ChildKilled(Exception):
    """The process was killed by somebody else."""


class _Child:
    """One process, and the socket that is its standard input and output."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        answers: asyncio.StreamReader,
        requests: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._answers = answers
        self._requests = requests

    @classmethod
    async def start(cls) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = _started(theirs.fileno())
            except OSError as error:
                ours.close()
                raise ParserUnavailable(f"no process can be started to parse: {error}") from error
        return cls(process, *await asyncio.open_unix_connection(sock=ours))

    async def ask(self, head: bytes, data: bytes, *, longest: int) -> dict[str, Any]:
        """Return the answer, of at most *longest* bytes; raises ChildEnded."""
        try:
            if self._requests.is_closing():
                # Not every event loop raises a ConnectionError when it is written to.
                raise ConnectionResetError
            size = LENGTH.pack(len(head) + 1 + len(data))
            self._requests.writelines([size, head, b"\n", data])
            await self._requests.drain()
            (length,) = LENGTH.unpack(await self._answers.readexactly(LENGTH.size))
            if length > longest:
                raise ChildEnded(Ending.CRASHED)
            answer: dict[str, Any] = json.loads(await self._answers.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ChildEnded(await self._ended()) from error
        return answer

    async def kill(self) -> None:
        """End the process and what it forked, and wait until it is gone."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._requests.close()
        await asyncio.shield(self._ended())

    async def _ended(self) -> int:
        return await asyncio.to_thread(self._process.wait)


def _started(standard: int) -> subprocess.Popen[bytes]:
    """Start a process with that file as its standard input and output; raises OSError.

    Takes milliseconds, and is not for the event loop to do: uvloop forks in a way that runs the
    handlers of gRPC, of which one new process in ten died. The subprocess module does not.
    """
    return subprocess.Popen(  # noqa: S603 - of our own
        [sys.executable, "-m", CHILD],
        stdin=standard,
        stdout=standard,
        # A group of its own, to be killed with what it forked.
        start_new_session=True,
        # Without the secrets of the service.
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
    )
