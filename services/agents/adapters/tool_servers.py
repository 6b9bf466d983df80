"""Tools of servers that teams run, called over gRPC."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import grpc
from pydantic import RootModel

from maieutic.tools.v1.tool_service_pb2 import CallToolRequest, ListToolsRequest
from maieutic.tools.v1.tool_service_pb2_grpc import ToolServiceStub
from services.agents.agents.listed_tools import ListedTool, listed
from services.agents.agents.loop import Tool, Tools
from services.agents.agents.team_tools import USING_TOOL, MoreTools
from services.agents.errors import ToolProblem
from services.agents.ports import AgentContext, Notice
from services.runtime import deadline
from services.runtime.channel import MEBIBYTE, ChannelOptions, open_channel
from services.runtime.identity import Signer, acting_for

if TYPE_CHECKING:  # the stub's asynchronous face exists for type checkers alone
    from maieutic.tools.v1.tool_service_pb2_grpc import ToolServiceAsyncStub

_LOG = logging.getLogger(__name__)

AUDIENCE = "maieutic-tools"
REFRESH_SECONDS = 60.0
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
MOST_DOUBLINGS = 16
START_SECONDS = 2.0
"""So long a worker waits at its start for the lists; a server that is away comes in later."""
INPUT_BYTES = 64 * 1024
MESSAGE_CHARACTERS = 1000
CHANGED = frozenset({grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED})
"""The server has other tools than it has told."""
TOLD = CHANGED - {grpc.StatusCode.UNIMPLEMENTED} | {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Answers whose message is written for whoever asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolServerOptions:
    """The servers whose tools models may call; docs/extending.md."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    """JSON object: name to host:port, dns:///name:port or unix:/path. A name has lower-case
    letters, digits and single underscores, at most 20; tools are called <name>__<tool>."""

    timeout: float = 10.0
    """Seconds for one call of a tool."""

    channel: ChannelOptions = field(
        # Servers that are not ours disconnect whoever pings them more often than they expect.
        default=ChannelOptions(keepalive=600.0, max_message_bytes=MEBIBYTE)
    )
    """How the servers are called."""


class _Anything(RootModel[dict[str, Any]]):
    """The server checks its input itself."""


def pause_after(failures: int) -> float:
    """Return the seconds until a server is asked for its tools again, after failures in a row."""
    if not failures:
        return REFRESH_SECONDS
    # A server may be away for days: too high a power is no number any more.
    return min(FIRST_PAUSE * 2.0 ** min(failures, MOST_DOUBLINGS), LONGEST_PAUSE)


@asynccontextmanager
async def tool_servers(options: ToolServerOptions, signer: Signer) -> AsyncIterator[MoreTools]:
    """Keep up with the servers' tools during the block; returns those for a turn.

    A server that is away, or says what cannot be used, ends nothing: its tools are missing, or
    stay as they were, and the log says why.
    """
    async with AsyncExitStack() as stack:
        servers = [
            ToolServer(name, ToolServiceStub(channel), options.timeout)
            for name, channel in [
                (name, await stack.enter_async_context(_channel(name, address, options, signer)))
                for name, address in options.addresses.items()
            ]
        ]
        tasks = [asyncio.create_task(server.keep_up()) for server in servers]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    await asyncio.gather(*(server.asked.wait() for server in servers))
            yield lambda context: [tool for server in servers for tool in server.of(context)]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _channel(
    name: str, address: str, options: ToolServerOptions, signer: Signer
) -> AsyncIterator[grpc.aio.Channel]:
    # A token for our own services must not get into other hands.
    foreign = signer.for_audience(f"{AUDIENCE}/{name}")
    async with open_channel(
        address, service=f"tools/{name}", signer=foreign, options=options.channel
    ) as channel:
        yield channel


class ToolServer:
    """One server, with the tools that it has told last."""

    def __init__(self, name: str, stub: "ToolServiceAsyncStub", timeout: float) -> None:
        self._name = name
        self._stub = stub
        self._timeout = timeout
        self._listed: Sequence[ListedTool] = ()
        self._problems: Sequence[str] = ()
        self._changed = asyncio.Event()
        self.asked = asyncio.Event()
        """Set once it was asked for its tools."""

    def of(self, context: AgentContext) -> Tools:
        """Return what may be used for the turn."""
        return [
            Tool(
                told=tool.told,
                form=_Anything,
                notice=Notice(code=USING_TOOL, text=tool.notice),
                call=self._calling(tool.name, context),
            )
            for tool in self._listed
        ]

    async def keep_up(self) -> None:
        """Ask for the tools, again and again; sooner where a call shows that they have changed."""
        failures = 0
        while True:
            failures = 0 if await self._list() else failures + 1
            self.asked.set()
            await asyncio.sleep(FIRST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_after(failures)):
                    await self._changed.wait()
            self._changed.clear()

    async def _list(self) -> bool:
        """Ask once; whether that was answered."""
        try:
            response = await self._stub.ListTools(ListToolsRequest())
            self._listed, problems = listed(self._name, response.tools)
        except grpc.aio.AioRpcError as error:
            self._log([f"cannot be asked for its tools: {error.code().name}: {error.details()}"])
            return False
        # A supervision loop: whatever another team's server says must not end it.
        except Exception:  # noqa: BLE001 - see above
            _LOG.exception("tool server %s: its tools cannot be read", self._name)
            return False
        self._log(problems)
        return True

    def _log(self, problems: Sequence[str]) -> None:
        """Log what is wrong, once until it changes."""
        if problems and problems != self._problems:
            _LOG.warning("tool server %s: %s", self._name, "; ".join(problems))
        self._problems = problems

    def _calling(self, tool: str, context: AgentContext) -> Callable[[_Anything], Awaitable[str]]:
        async def call(given: _Anything) -> str:
            request = CallToolRequest(
                name=tool,
                input=_written(given.root),
                tenant=context.tenant,
                user_id=context.user_id,
                session_id=context.session_id,
                turn_id=context.turn_id,
                call_id=uuid4().hex,
            )
            left = context.deadline - time.time()
            with acting_for(context.tenant, context.user_id), deadline.within(left):
                return await self._call(request)

        return call

    async def _call(self, request: CallToolRequest) -> str:
        try:
            response = await self._stub.CallTool(request, timeout=self._timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() in CHANGED:
                self._changed.set()
            # Not its message, which may repeat what the user has said.
            _LOG.warning(
                "turn %s: tool server %s: %s: %s",
                *(request.turn_id, self._name, request.name, error.code().name),
            )
            raise ToolProblem(_explained(error)) from error
        if response.failed:
            raise ToolProblem(response.text)
        return response.text


def _written(given: Mapping[str, Any]) -> str:
    try:
        written = json.dumps(given, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise ToolProblem("The input cannot be written as JSON.") from error
    if len(written) > INPUT_BYTES:
        raise ToolProblem(f"The input is too long: at most {INPUT_BYTES} bytes of JSON.")
    return written


def _explained(error: grpc.aio.AioRpcError) -> str:
    if error.code() in TOLD and error.details():
        return f"The tool refuses: {(error.details() or '')[:MESSAGE_CHARACTERS]}"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "The tool did not answer in time."
    return "The tool cannot be used for the moment."
