"""A small working ToolService, with faults that a test can switch on."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from maieutic.tools.v1.tool_service_pb2 import (
    CallToolRequest,
    CallToolResponse,
    ListToolsRequest,
    ListToolsResponse,
    Tool,
)
from maieutic.tools.v1.tool_service_pb2_grpc import (
    ToolServiceServicer,
    add_ToolServiceServicer_to_server,
)
from services.runtime.identity import Identity, Verifier, current_identity
from services.runtime.server import RunningServer, ServerOptions, serving
from tests.fakes.workers import public_pem

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}


def told(name: str = "look", schema: str = json.dumps(SCHEMA), **fields: str) -> Tool:
    return Tool(name=name, **{"description": "Looks.", "input_schema": schema, **fields})


async def echo(request: CallToolRequest, context: Context) -> CallToolResponse:
    return CallToolResponse(text=f"It says {json.loads(request.input)['word']}.")


@dataclass(kw_only=True)
class ToolBench(ToolServiceServicer):
    """The tools of a server; what it was asked, and by whom."""

    tools: Sequence[Tool] = field(default_factory=lambda: [told()])
    answer: Callable[[CallToolRequest, Context], Awaitable[CallToolResponse]] = echo
    requests: list[CallToolRequest] = field(default_factory=list)
    callers: list[Identity] = field(default_factory=list)
    listings: int = 0
    seconds_given: float = 0.0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def ListTools(self, request: ListToolsRequest, context: Context) -> ListToolsResponse:
        self.listings += 1
        self.callers.append(current_identity())
        return ListToolsResponse(tools=self.tools)

    async def CallTool(self, request: CallToolRequest, context: Context) -> CallToolResponse:
        self.requests.append(request)
        self.callers.append(current_identity())
        self.seconds_given = context.time_remaining() or 0.0
        try:
            return await self.answer(request, context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@asynccontextmanager
async def tool_bench(
    bench: ToolBench, key: Ed25519PrivateKey, *, name: str = "far", listen: str = "127.0.0.1:0"
) -> AsyncIterator[RunningServer]:
    """Serve the tools, as the server *name*, to workers that sign with the key."""

    def register(server: grpc.aio.Server) -> list[str]:
        add_ToolServiceServicer_to_server(bench, server)
        return ["maieutic.tools.v1.ToolService"]

    verifier = Verifier({"agents": public_pem(key)}, audience=f"maieutic-tools/{name}")
    options = ServerOptions(listen=listen, grace=0.1, stream_grace=0.05)
    async with serving(options, register, verifier=verifier) as running:
        yield running
