"""Workers and stores die while code is generated: no finished step is paid twice."""

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic, TurnStream
from tests.emulators.anthropic import Emulator, anthropic_emulator
from tests.emulators.anthropic_answers import last_text
from tests.emulators.anthropic_plan import Rule
from tests.faults.steps import PATIENCE, archived_turn, frames_of, kinds
from tests.stack import RealStack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="package")

_ASKED = re.compile(r"Plan the files|Write the file \w+\.py")
PATHS = ("first.py", "second.py", "third.py")


def text_of(path: str) -> str:
    return f"# {path}\n" + "\n".join(f"line_{number} = {number}" for number in range(12)) + "\n"


@pytest_asyncio.fixture(loop_scope="package")
async def claude(stack: RealStack) -> AsyncIterator[Emulator]:
    """Let the workers call an emulator that plans three files and writes each slowly.

    It comes to no end of the third one when it is first asked for it.
    """
    files = [{"path": path, "purpose": "Counts.", "interface": ""} for path in PATHS]
    plan = json.dumps({"files": files, "assumptions": []})
    async with anthropic_emulator() as emulator:
        emulator.plan = [
            Rule(contains="Plan the files", text=plan),
            Rule(contains=f"Write the file {PATHS[2]}", breaks="hang", after=5, times=1),
            *(
                Rule(contains=f"Write the file {path}", text=text_of(path), delay=0.02)
                for path in PATHS
            ),
        ]
        await stack.replace("agents", **asking(emulator))
        yield emulator


def asking(emulator: Emulator) -> dict[str, Any]:
    return {
        "model_kind": "claude",
        "model_claude_api_key": "key",
        "model_claude_base_url": emulator.url,
    }


def asked(emulator: Emulator) -> Counter[str]:
    """Return how often the plan and each file were asked for."""
    texts = [last_text(one.body) for one in emulator.requests]
    return Counter(found[0] for text in texts if (found := _ASKED.search(text)))


async def until_file(stream: TurnStream, path: str, *, finished: bool) -> None:
    """Read until the file begins, or is finished."""
    async for frame in stream:
        if frame.file.path == path and frame.file.HasField("artifact") == finished:
            return
    raise AssertionError(f"the stream ended without {path}")


async def whole(client: Maieutic, stream: TurnStream) -> Sequence[str]:
    """Read to the end; returns the paths of the outcome, whose content is as it was written."""
    outcome = await stream.result()
    assert outcome.state == TURN_STATE_COMPLETED, outcome
    for artifact in outcome.artifacts:
        content = await client.artifacts.download(artifact.artifact_id)
        assert content.decode() == text_of(artifact.path)
    listed = [one.path async for one in client.artifacts.list(turn_id=stream.turn_id)]
    assert sorted(listed) == sorted(artifact.path for artifact in outcome.artifacts)
    return [artifact.path for artifact in outcome.artifacts]


async def test_kill_9_of_the_archive_and_of_workers_repeats_at_most_the_file_in_progress(
    stack: RealStack, client: Maieutic, session: Session, claude: Emulator
) -> None:
    stream = client.turns.generate_code(session, "Count.", timeout=2 * PATIENCE)
    async with stream:
        await until_file(stream, PATHS[0], finished=False)
        await stack.kill9("persistence")  # the file is written, and cannot be put
        await wait_until(lambda: all(one.end for one in claude.requests), PATIENCE)
        await stack.start("persistence")
        await until_file(stream, PATHS[0], finished=True)
        assert asked(claude)[f"Write the file {PATHS[0]}"] == 1, "it waited, and was not paid twice"
        await stack.kill9("agents")  # as soon as a file is finished
        await stack.start("agents", **asking(claude))
        await until_file(stream, PATHS[2], finished=False)
        await stack.kill9("agents")  # in the middle of a file
        await stack.start("agents", **asking(claude))
        assert await whole(client, stream) == list(PATHS)
    times = asked(claude)
    assert times["Plan the files"] == 1
    assert times[f"Write the file {PATHS[0]}"] == 1, "finished: never asked for again"
    assert times[f"Write the file {PATHS[1]}"] <= 2
    assert times[f"Write the file {PATHS[2]}"] == 2
    assert (await archived_turn(stack, stream.turn_id))["attempts"] == 3
    frames = await frames_of(client, stream.turn_id)
    assert kinds(frames).count("outcome") == 1
    for path in PATHS:
        done = [frame for frame in frames if frame.file.path == path and frame.file.artifact.path]
        assert len(done) <= 1, "told as finished once"
