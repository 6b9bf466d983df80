"""A model that does as it is told: for tests of timing and failure, and for load.

What to do comes from the constructor, or from the user's text, which may hold a directive:

    {"script": {"text": "Hello", "chunks": 5, "first_latency": 0.2, "fail": "unavailable"}}

It may call tools before it says its text: `"calls": [[{"name": "search_documents", "input": {}}]]`
is one round with one call.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

from services.agents.errors import ModelError, ModelRefused, ModelRejected, ModelUnavailable
from services.agents.ports import (
    ModelEvent,
    ModelRequest,
    ModelUsage,
    ModelWait,
    TextDelta,
    ToolCall,
)

MODEL_NAME = "scripted-1"
DIRECTIVE = '{"script"'
FAILURES = ("", "unavailable", "refused", "rejected", "hang", "crash")

Rounds: TypeAlias = Sequence[Sequence[Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What one call does. Times in seconds."""

    text: str = "This is a scripted answer, said word by word."
    chunks: int = 0
    """In how many deltas the text is sent; 0 means one for each word."""
    first_latency: float = 0.0
    """Before the first delta."""
    delay: float = 0.0
    """Before each further delta."""
    fail: str = ""
    """unavailable, refused, rejected, hang (wait forever) or crash (an unexpected exception)."""
    fail_times: int = 1_000_000
    """How many calls of a turn fail before one succeeds; with a `calls_file` those of all
    processes count."""
    fail_after: int = 0
    """How many deltas come before the failure."""
    tells_input: bool = False
    """Whether it says before its answer what it has read, as Claude does."""
    calls: Rounds = ()
    """Round by round the tools that are called, each as {"name": ..., "input": ...}, before the
    text is said; a round without any is a pause."""
    aloud: str = ""
    """What is said in each round that calls tools."""
    retry_after: float | None = None
    """What an unavailable model says about the time to wait."""


class ScriptedModel:
    """Answers with the text, chunks and delays of a script, and counts its calls.

    With `calls_file` each call also appends its turn id to that file, so that the calls of
    several processes, killed ones included, can be counted together.
    """

    def __init__(self, script: Script = Script(), *, calls_file: Path | None = None) -> None:
        self.default = script
        """What is done where the user's text says nothing else."""
        self._calls_file = calls_file
        self.calls: Counter[str] = Counter()
        """Calls started, by turn id."""
        self.cancelled: dict[str, float] = {}
        """Calls left before their end, by turn id: when, on the monotonic clock."""

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        script = script_for(request, self.default)
        self._count(request.turn_id)
        events = self._events(request, script)
        try:
            yield events
        finally:
            await events.aclose()

    def _count(self, turn_id: str) -> None:
        self.calls[turn_id] += 1
        if self._calls_file is not None:
            with self._calls_file.open("a", encoding="utf-8") as file:
                file.write(f"{turn_id}\n")

    def _fails(self, turn_id: str, script: Script) -> bool:
        """Whether the call that was counted last is one of those that fail."""
        if not script.fail:
            return False
        begun = self.calls[turn_id]
        if self._calls_file is not None:
            begun = self._calls_file.read_text(encoding="utf-8").split().count(turn_id)
        return begun <= script.fail_times

    async def _events(
        self, request: ModelRequest, script: Script
    ) -> AsyncGenerator[ModelEvent, None]:
        wait = _wait(request, script)
        chunks = [script.aloud] * bool(script.aloud) if wait else _chunks(script)
        said = chunks[: request.max_tokens]
        failing = self._fails(request.turn_id, script)
        words = sum(len(message.text.split()) for message in request.messages)
        done = False
        try:
            if script.tells_input:
                yield ModelUsage(model=MODEL_NAME, input_tokens=words, output_tokens=0)
            for index, chunk in enumerate(said[: script.fail_after] if failing else said):
                await asyncio.sleep(script.delay if index else script.first_latency)
                yield TextDelta(text=chunk)
            if failing:
                await _fail(script)
            done = True
            if wait is not None:
                yield wait
            yield ModelUsage(
                model=MODEL_NAME,
                input_tokens=words,
                output_tokens=len(said),
                cut=len(said) < len(chunks),
            )
        except ModelError:
            done = True
            raise
        finally:
            if not done:
                self.cancelled[request.turn_id] = time.monotonic()


def script_for(request: ModelRequest, default: Script) -> Script:
    """Return the script that the last message holds, over *default*.

    Raises ModelRejected, naming what is wrong, for a directive that cannot be read.
    """
    text = request.messages[-1].text if request.messages else ""
    if (start := text.find(DIRECTIVE)) < 0:
        return default
    try:
        directive, _ = json.JSONDecoder().raw_decode(text, start)
    except ValueError as error:
        raise ModelRejected(f"the script is not valid JSON: {error}") from error
    return read_script(directive["script"], default)


def read_script(values: Any, default: Script = Script()) -> Script:
    """Return *default* with the values of a JSON object; raises ModelRejected for a wrong one."""
    if not isinstance(values, Mapping):
        raise ModelRejected("a script is a JSON object")
    if unknown := set(values) - {field.name for field in fields(Script)}:
        raise ModelRejected(f"a script has no {', '.join(sorted(unknown))}")
    script = replace(default, **values)
    if script.fail not in FAILURES:
        raise ModelRejected(f"a script cannot fail as {script.fail!r}, only as {FAILURES[1:]}")
    if not _are_rounds(script.calls):
        raise ModelRejected('calls are [[{"name": "...", "input": {}}]]: rounds of calls of tools')
    return script


def _are_rounds(calls: Any) -> bool:
    if not isinstance(calls, list | tuple):
        return False
    return all(isinstance(one, list | tuple) and all(map(_is_call, one)) for one in calls)


def _is_call(call: Any) -> bool:
    return isinstance(call, Mapping) and isinstance(call.get("name"), str)


def _wait(request: ModelRequest, script: Script) -> ModelWait | None:
    """Return the calls of this round; None if it is time for the text."""
    number = len(request.rounds)
    if number >= len(script.calls) or not request.may_call:
        return None
    calls = tuple(
        ToolCall(call_id=f"call-{number}-{index}", name=call["name"], input=call.get("input"))
        for index, call in enumerate(script.calls[number])
    )
    return ModelWait(calls=calls)


def _chunks(script: Script) -> list[str]:
    if not script.text:
        return []
    if not script.chunks:
        words = script.text.split(" ")
        return [f"{word} " for word in words[:-1]] + [words[-1]] * bool(words[-1])
    size = -(-len(script.text) // script.chunks)
    return [script.text[start : start + size] for start in range(0, len(script.text), size)]


async def _fail(script: Script) -> None:
    if script.fail == "unavailable":
        raise ModelUnavailable("the script is unavailable", retry_after=script.retry_after)
    if script.fail == "refused":
        raise ModelRefused("the script refuses to answer")
    if script.fail == "rejected":
        raise ModelRejected("the script rejects the request")
    if script.fail == "crash":
        raise RuntimeError("the script crashes")
    await asyncio.Event().wait()
