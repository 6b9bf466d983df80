"""The model loop: call the model and the tools that it asks for, until it has ended."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from maieutic.v1.turn_service_pb2 import Usage
from services.agents.accounts import usage_of
from services.agents.errors import ModelSilent, ModelUnending, ToolProblem
from services.agents.ports import (
    Delta,
    Model,
    ModelEvent,
    ModelRequest,
    ModelRound,
    ModelTool,
    ModelUsage,
    ModelWait,
    Notice,
    TextDelta,
    ToolCall,
    ToolResult,
)
from services.runtime import names, telemetry
from services.runtime.errors import ServiceError

CUT = Notice(code="ANSWER_CUT", text="The answer is longer than may be said at once: ask to go on")
BETWEEN_ROUNDS = "\n\n"
SHORTENED = "\n[The rest is left out: it is too long.]"

F = TypeVar("F", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOptions:
    """How far a model may go before it answers."""

    rounds: int = 6
    """Calls of the model that may ask for tools; the one after them has to answer."""

    calls: int = 8
    """Most calls of tools in one round; they run at the same time."""

    tool_timeout: float = 15.0
    """Seconds for one call of a tool."""

    result_characters: int = 20_000
    """Most characters of one tool's result; a longer one is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool(Generic[F]):
    """What a model may use while it answers one turn."""

    told: ModelTool
    """What the model knows of it."""
    form: type[F]
    """Of its input, which is checked before a call."""
    notice: Notice
    """What is shown while it works."""
    call: Callable[[F], Awaitable[str]]
    """Returns what the model is to read; raises ToolProblem and ServiceError."""
    ends: bool = False
    """Whether a model that has said something may have nothing to add to the call."""


Tools = Sequence[Tool[Any]]


class ModelLoop:
    """Asks a model until its answer has ended; without state of its own."""

    def __init__(self, model: Model, options: LoopOptions = LoopOptions()) -> None:
        self._model = model
        self._options = options

    async def run(
        self, request: ModelRequest, *, prompt: str, tools: Tools = ()
    ) -> AsyncGenerator[Delta | Notice | Usage, None]:
        """Yield the text as it comes, what is done meanwhile, and what each call has consumed.

        What goes wrong in a tool is told to the model. Raises ModelError.
        """
        request = replace(request, tools=tuple(tool.told for tool in tools))
        answer = _Answer(self._model, request, prompt)
        for left in range(self._options.rounds, -1, -1):
            answer.may_call = left > 0
            async with aclosing(answer.go_on()) as events:
                async for event in events:
                    yield event
            if answer.wait is None:
                return
            if not left:
                raise ModelUnending(self._options.rounds)
            for notice in _notices(answer.wait, tools):
                yield notice
            by_name = {tool.told.name: tool for tool in tools}
            results = await self._results(answer.wait, by_name)
            answer.take(results)
            answer.may_end = _may_end(answer.wait, results, by_name)

    async def _results(
        self, wait: ModelWait, tools: Mapping[str, Tool[Any]]
    ) -> tuple[ToolResult, ...]:
        called, left = wait.calls[: self._options.calls], wait.calls[self._options.calls :]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._result(call, tools)) for call in called]
        too_many = f"Not done: at most {self._options.calls} calls at once."
        return (*(task.result() for task in tasks), *(_failed(call, too_many) for call in left))

    async def _result(self, call: ToolCall, tools: Mapping[str, Tool[Any]]) -> ToolResult:
        if (tool := tools.get(call.name)) is None:
            known = ", ".join(tools) or "none"
            return _failed(call, f"There is no such tool; there are: {known}.")
        started = monotonic()
        result = await self._called(call, tool)
        attributes = {
            names.TOOL_NAME: call.name,
            names.TOOL_OUTCOME: "failed" if result.failed else "done",
        }
        duration = telemetry.current().histogram(names.TOOL_DURATION)
        duration.record(monotonic() - started, attributes)
        return result

    async def _called(self, call: ToolCall, tool: Tool[Any]) -> ToolResult:
        try:
            given = tool.form.model_validate(call.input)
        except ValidationError as error:
            return _failed(call, f"The input is malformed: {_problems(error)}.")
        seconds = self._options.tool_timeout
        try:
            async with asyncio.timeout(seconds):
                text = await tool.call(given)
        except TimeoutError:
            return _failed(call, f"This took longer than {seconds:g} s and was given up.")
        except (ToolProblem, ServiceError) as error:
            return _failed(call, self._bounded(str(error) or "This cannot be done for the moment."))
        return ToolResult(call_id=call.call_id, text=self._bounded(text))

    def _bounded(self, text: str) -> str:
        most = self._options.result_characters
        if not text.strip():
            return "Nothing was found."
        bounded = text if len(text) <= most else text[:most] + SHORTENED
        # Half a character, as of a file's name that is no UTF-8, could not be sent to the model.
        return bounded.encode(errors="replace").decode()


class _Answer:
    """One answer while it is made, call by call."""

    def __init__(self, model: Model, request: ModelRequest, prompt: str) -> None:
        self._model = model
        self._request = request
        self._prompt = prompt
        self._said = False
        self.may_call = True
        self.may_end = False
        """Whether it needs no other word, if something was said."""
        self.wait: ModelWait | None = None
        """What the last call ended with, if the answer is to go on."""

    async def go_on(self) -> AsyncGenerator[Delta | Notice | Usage, None]:
        """Call the model once."""
        request, started = replace(self._request, may_call=self.may_call), monotonic()
        apart = self._said and self.wait is not None and bool(self.wait.calls)
        self.wait = None
        consumed: ModelUsage | None = None
        async with aclosing(self._events(request)) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    yield Delta(text=f"{BETWEEN_ROUNDS}{event.text}" if apart else event.text)
                    self._said, apart = True, False
                elif isinstance(event, ModelWait):
                    self.wait = event
                else:
                    consumed = event
        if consumed is None:
            return
        if consumed.cut:
            yield CUT
        yield usage_of(consumed, request.step, self._prompt, monotonic() - started)

    async def _events(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Yield what the model says; that is nothing where nothing need be added."""
        try:
            async with self._model.stream(request) as events:
                async for event in events:
                    yield event
        except ModelSilent:
            if not (self.may_end and self._said):
                raise

    def take(self, results: tuple[ToolResult, ...]) -> None:
        """Note what the tools have brought for the last call."""
        if self.wait is not None:
            done = ModelRound(wait=self.wait, results=results)
            self._request = replace(self._request, rounds=(*self._request.rounds, done))


def _may_end(
    wait: ModelWait, results: Sequence[ToolResult], tools: Mapping[str, Tool[Any]]
) -> bool:
    """Whether the calls that were made leave nothing to be said."""
    done = [
        call.name in tools and tools[call.name].ends and not result.failed
        for call, result in zip(wait.calls, results, strict=True)
    ]
    return bool(done) and all(done)


def _notices(wait: ModelWait, tools: Tools) -> list[Notice]:
    shown = {tool.told.name: tool.notice for tool in tools}
    return [shown[call.name] for call in wait.calls if call.name in shown]


def _failed(call: ToolCall, text: str) -> ToolResult:
    return ToolResult(call_id=call.call_id, text=text, failed=True)


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in error.errors()
    )
