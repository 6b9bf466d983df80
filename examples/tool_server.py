"""A tool server: tools for Maieutic's agents, from any place and in any language.

    python examples/tool_server.py 127.0.0.1:50070 public-keys.json

The second argument is the file with the workers' public key (a deployment's
`identity/public-keys.json`); without it everybody is answered, which is for trials on one's own
machine only.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import jwt

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

AUDIENCE = "maieutic-tools/plant"
"""The server is called plant in the workers' settings."""
LEVELS = {("acme", "north"): "1.42 m", ("acme", "south"): "0.87 m"}
SCHEMA = {
    "type": "object",
    "properties": {"reservoir": {"type": "string", "description": "Which one, as north."}},
    "required": ["reservoir"],
}


class Plant(ToolServiceServicer):
    """Tells the levels of reservoirs to whom they belong."""

    def __init__(self, public_key: str) -> None:
        self._public_key = public_key

    async def ListTools(  # noqa: N802 - the protocol's name
        self, request: ListToolsRequest, context: Any
    ) -> ListToolsResponse:
        """Tell the tools."""
        level = Tool(
            name="level",
            description="Tells the level of a reservoir, as it is now.",
            input_schema=json.dumps(SCHEMA),
            notice="Reading the level",
        )
        return ListToolsResponse(tools=[level])

    async def CallTool(  # noqa: N802 - the protocol's name
        self, request: CallToolRequest, context: Any
    ) -> CallToolResponse:
        """Do what a model asks for: its input may be anything."""
        tenant = await self._tenant(request, context)
        if request.name != "level":
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no tool {request.name!r}")
        reservoir = str(json.loads(request.input).get("reservoir"))
        level = LEVELS.get((tenant, reservoir))
        if level is None:
            return CallToolResponse(failed=True, text=f"There is no reservoir {reservoir!r}.")
        return CallToolResponse(text=f"{reservoir}: {level}")

    async def _tenant(self, request: CallToolRequest, context: Any) -> str:
        """Return for whom the worker asks, as its token says."""
        if not self._public_key:
            return request.tenant
        metadata: Mapping[str, Any] = dict(context.invocation_metadata())
        token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
        try:
            claims = jwt.decode(
                token, self._public_key, algorithms=["EdDSA"], audience=AUDIENCE, issuer="agents"
            )
            return str(claims["tenant"])
        except (jwt.PyJWTError, KeyError) as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
            raise


async def main(listen: str, keys_file: str = "") -> None:
    """Serve until stopped."""
    public_key = json.loads(Path(keys_file).read_text())["agents"] if keys_file else ""  # noqa: ASYNC240 - once
    server = grpc.aio.server()
    add_ToolServiceServicer_to_server(Plant(public_key), server)
    port = server.add_insecure_port(listen)
    await server.start()
    print(f"ready {port}", flush=True)  # noqa: T201 - whoever started this waits for it
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
