"""The local index after its process was killed."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import pytest

from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.adapters.vector_file import VectorFile
from services.retrieval.ports import Vectors
from tests.retrieval.local_script import DIMENSION, EMBEDDER, do, state_of, steps

STEPS = 16

Write = Callable[[VectorFile, Sequence[int], Vectors], None]


class Copies:
    """Copies of an index's files: as a process leaves them that is killed at that place."""

    def __init__(self, folder: Path, to: Path) -> None:
        self._folder = folder
        self._to = to
        self.made: list[Path] = []

    def make(self) -> None:
        self.made.append(self._to / str(len(self.made)))
        shutil.copytree(self._folder, self.made[-1])

    def before_changes(self, statement: str) -> None:
        if not statement.startswith("SELECT"):
            self.make()

    def around_writes(self, write: Write) -> Write:
        """Copy before vectors are written, and when the first one is."""

        def copying(file: VectorFile, rows: Sequence[int], vectors: Vectors) -> None:
            self.make()
            write(file, rows[:1], vectors[:1])
            self.make()
            write(file, rows, vectors)

        return copying


@asynccontextmanager
async def copied_everywhere(index: LocalVectorIndex, copies: Copies) -> AsyncIterator[None]:
    database = index._store._database
    await index._run(database.set_trace_callback, copies.before_changes)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VectorFile, "write", copies.around_writes(VectorFile.write))
            yield
    finally:
        await index._run(database.set_trace_callback, None)


async def test_wherever_a_call_is_cut_off_its_document_is_as_before_or_as_after(
    tmp_path: Path,
) -> None:
    seen = 0
    opened = LocalVectorIndex.open(tmp_path / "index", embedder=EMBEDDER, dimension=DIMENSION)
    async with opened as index:
        before = next(steps()).state
        for number, step in enumerate(islice(steps(), STEPS)):
            copies = Copies(tmp_path / "index", tmp_path / str(number))
            async with copied_everywhere(index, copies):
                await do(index, step)
            for place in copies.made:
                assert await state_of(place) in (before, step.state)
            seen += len(copies.made)
            before = step.state
    assert await state_of(tmp_path / "index") == before
    assert seen > 4 * STEPS


def killed_after(calls: int, folder: Path) -> int:
    """Kill the script after that many calls; returns how many it had done."""
    command = [sys.executable, "-m", "tests.retrieval.local_script", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own
        assert process.stdout
        for _ in range(calls):
            assert process.stdout.readline()
        process.kill()
        done = process.stdout.read().split()
    return int(done[-1]) if done else calls


async def test_a_killed_process_leaves_what_it_had_answered(tmp_path: Path) -> None:
    for number, calls in enumerate((5, 80)):
        folder = tmp_path / str(number)
        last = await asyncio.to_thread(killed_after, calls, folder)
        # One more may have been done, and not been told.
        states = [step.state for step in islice(steps(), last - 1, last + 1)]
        assert await state_of(folder) in states
