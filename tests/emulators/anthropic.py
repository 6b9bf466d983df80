"""An emulator of Anthropic's API: the Messages API with streams, and faults by plan.

It answers like a model that only quotes: the same request has the same answer. What goes wrong
is said over HTTP, while it runs:

    PUT    /plan      {"rules": [{"status": 429, "retry_after": 1, "times": 3}]}
    GET    /requests  what came, how many at once, and how each ended
    DELETE /plan, DELETE /requests

The fields of a rule are those of `anthropic_plan.Rule`. By itself: `maieutic emulate anthropic`.
"""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web

from tests.emulators.anthropic_answers import (
    Answer,
    BadRequest,
    answer,
    cached_prefix,
    check,
    deltas,
    input_tokens,
    last_text,
    system_texts,
    tokens_of,
)
from tests.emulators.anthropic_plan import BadPlan, Rule, read_plan

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
KEY_HEADERS = ("authorization", "x-api-key")
COUNT_PATH = "/v1/messages/count_tokens"
REQUEST_BYTES = 32 * 1024 * 1024
SIGNATURE = "c2lnbmVk"
"""Of thoughts; clients send it back as it is."""


@dataclass(kw_only=True)
class Seen:
    """A request that came. Times in seconds on the loop's clock."""

    number: int
    path: str
    body: Any
    headers: dict[str, str]
    """By their names in lower case, the key left out."""
    peer: str
    """The connection: the same for requests on the same one."""
    started: float
    status: int = 0
    """0 while it is under way."""
    end: str = ""
    """done, broken (by the plan) or left (by the client); empty while it is under way."""
    ended: float = 0.0


@dataclass(kw_only=True)
class Emulator:
    """A running emulator; what is done over HTTP may be done here, too."""

    url: str = ""
    plan: list[Rule] = field(default_factory=list)
    requests: list[Seen] = field(default_factory=list)
    active: int = 0
    peak: int = 0
    """The most requests at once."""
    cached: set[str] = field(default_factory=set)
    going: asyncio.Event = field(default_factory=asyncio.Event)
    """No answer begins before this is set, as it is at the start."""

    def __post_init__(self) -> None:
        self.going.set()

    def rule_for(self, body: Any) -> Rule:
        text, instructions = last_text(body), "\n".join(system_texts(body))
        applies = (rule for rule in self.plan if rule.applies(text, instructions, self.active))
        return next(applies, Rule())

    def usage(self, body: Any, prefix: str) -> dict[str, int]:
        """Return the usage of the input; the second request with a long prefix reads it cached."""
        known, tokens = prefix in self.cached, len(prefix.split())
        if prefix:
            self.cached.add(prefix)
        return {
            "input_tokens": input_tokens(body) - tokens,
            "cache_creation_input_tokens": 0 if known else tokens,
            "cache_read_input_tokens": tokens if known else 0,
            "output_tokens": 1,
        }

    def forget(self) -> None:
        self.requests.clear()
        self.peak = self.active

    def report(self) -> dict[str, Any]:
        seen = [asdict(one) for one in self.requests]
        return {"total": len(seen), "active": self.active, "peak": self.peak, "requests": seen}


@asynccontextmanager
async def anthropic_emulator(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Emulator]:
    """Serve during the block; port 0 takes a free one."""
    emulator = Emulator()
    # Cancelled handlers are how the emulator notices at once that a client has left.
    runner = web.AppRunner(
        _application(emulator), handler_cancellation=True, access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=1024)
        await site.start()
        bound = runner.addresses[0][1]
        emulator.url = f"http://{host}:{bound}"
        yield emulator
    finally:
        await runner.cleanup()


async def serve(host: str, port: int) -> None:
    """Serve until cancelled, and say where."""
    async with anthropic_emulator(host, port) as emulator:
        print(f"ready {emulator.url}", flush=True)  # noqa: T201 - whoever started it waits for it
        await asyncio.Event().wait()


def _application(emulator: Emulator) -> web.Application:
    application = web.Application(client_max_size=REQUEST_BYTES)
    handlers = _Handlers(emulator)
    application.add_routes(
        [
            web.post("/v1/messages", handlers.messages),
            web.post(COUNT_PATH, handlers.messages),
            web.put("/plan", handlers.put_plan),
            web.delete("/plan", handlers.delete_plan),
            web.get("/requests", handlers.get_requests),
            web.delete("/requests", handlers.delete_requests),
        ]
    )
    return application


class _Handlers:
    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def put_plan(self, request: web.Request) -> web.Response:
        try:
            self._emulator.plan = read_plan(await request.json())
        except (BadPlan, ValueError) as error:
            return _error(400, str(error))
        return web.json_response({"rules": len(self._emulator.plan)})

    async def delete_plan(self, request: web.Request) -> web.Response:
        self._emulator.plan = []
        return web.json_response({"rules": 0})

    async def get_requests(self, request: web.Request) -> web.Response:
        return web.json_response(self._emulator.report())

    async def delete_requests(self, request: web.Request) -> web.Response:
        self._emulator.forget()
        return web.json_response(self._emulator.report())

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """Answer, and note how the request ended."""
        emulator, clock = self._emulator, asyncio.get_running_loop().time
        seen = Seen(
            number=len(emulator.requests) + 1,
            path=request.path,
            body=await _json(request),
            headers=_shown(request),
            peer=_peer(request),
            started=clock(),
        )
        emulator.requests.append(seen)
        emulator.active += 1
        emulator.peak = max(emulator.peak, emulator.active)
        try:
            response = await self._answered(request, seen)
            seen.status, seen.end = response.status, seen.end or "done"
        except (asyncio.CancelledError, ConnectionError):
            seen.end = seen.end or "left"
            raise
        else:
            return response
        finally:
            emulator.active -= 1
            seen.ended = clock()

    async def _answered(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        if not any(request.headers.get(name) for name in KEY_HEADERS):
            return _error(401, "x-api-key header is required")
        counting = seen.path == COUNT_PATH
        try:
            check({"max_tokens": 1, **seen.body} if counting and seen.body else seen.body)
        except BadRequest as problem:
            return _error(400, str(problem))
        await self._emulator.going.wait()
        rule = self._emulator.rule_for(seen.body)
        await asyncio.sleep(rule.header_delay)
        if rule.status != 200:
            return _error(rule.status, rule.message, rule.error_type, rule.retry_after)
        if counting:
            return web.json_response({"input_tokens": input_tokens(seen.body)})
        return await self._said(request, seen, rule)

    async def _said(self, request: web.Request, seen: Seen, rule: Rule) -> web.StreamResponse:
        given = answer(seen.body, rule)
        usage = self._emulator.usage(seen.body, cached_prefix(seen.body))
        if seen.body.get("stream"):
            stream = _Stream(request, rule, seen)
            return await stream.run(_message(seen.body["model"], usage), given)
        await asyncio.sleep(rule.first_delay)
        return web.json_response(_whole(seen.body["model"], usage, given, rule))


class _Stream:
    """One streamed answer."""

    def __init__(self, request: web.Request, rule: Rule, seen: Seen) -> None:
        self._request = request
        self._rule = rule
        self._seen = seen
        self._index = 0
        """Of the block that is open."""
        self._response = web.StreamResponse(
            headers={"content-type": "text/event-stream", "request-id": _id("req")}
        )

    async def run(self, message: dict[str, Any], given: Answer) -> web.StreamResponse:
        await self._response.prepare(self._request)
        await self._send("message_start", message=message)
        await self._send("ping")
        if self._rule.thinking:
            await self._think()
        if not await self._say(given):
            return self._response
        delta = {"stop_sequence": None, **_stop(given, self._rule)}
        await self._send("message_delta", delta=delta, usage={"output_tokens": _length(given)})
        await self._send("message_stop")
        await self._response.write_eof()
        return self._response

    async def _think(self) -> None:
        block = {"type": "thinking", "thinking": "", "signature": ""}
        await self._send("content_block_start", index=self._index, content_block=block)
        for text in deltas(self._rule.thinking, self._rule.words):
            await self._pause(self._rule.delay)
            await self._delta({"type": "thinking_delta", "thinking": text})
        await self._delta({"type": "signature_delta", "signature": SIGNATURE})
        await self._send("content_block_stop", index=self._index)
        self._index += 1

    async def _say(self, given: Answer) -> bool:
        """Send the deltas; False if the plan broke the stream."""
        number = 0
        for block, pieces in _content(given, self._rule):
            await self._send("content_block_start", index=self._index, content_block=block)
            for piece in pieces:
                if self._rule.breaks and number == self._rule.after:
                    return await self._broken()
                await self._pause(self._rule.delay if number else self._rule.first_delay)
                await self._delta(piece)
                number += 1
            await self._send("content_block_stop", index=self._index)
            self._index += 1
        return not self._rule.breaks or await self._broken()

    async def _broken(self) -> bool:
        await self._break()
        self._seen.end = "broken"
        return False

    async def _break(self) -> None:
        rule = self._rule
        if rule.breaks == "error":
            kind = rule.error_type or "overloaded_error"
            await self._send("error", error={"type": kind, "message": rule.message})
        elif rule.breaks == "malformed":
            await self._response.write(b"event: content_block_delta\ndata: {not json\n\n")
        elif rule.breaks == "reset":
            _reset(self._request)
        elif rule.breaks == "hang":
            await self._pause(float("inf"))

    async def _pause(self, seconds: float) -> None:
        """Wait, with pings if they are wanted."""
        while self._rule.ping and seconds > self._rule.ping:
            await asyncio.sleep(self._rule.ping)
            await self._send("ping")
            seconds -= self._rule.ping
        if seconds == float("inf"):
            await asyncio.Event().wait()
        await asyncio.sleep(seconds)

    async def _delta(self, delta: dict[str, str]) -> None:
        await self._send("content_block_delta", index=self._index, delta=delta)

    async def _send(self, kind: str, **fields: Any) -> None:
        data = json.dumps({"type": kind, **fields})
        await self._response.write(f"event: {kind}\ndata: {data}\n\n".encode())


def _content(given: Answer, rule: Rule) -> Iterator[tuple[dict[str, Any], list[dict[str, str]]]]:
    """Yield each block as it is opened, and its pieces."""
    if given.text or not given.calls:
        texts = deltas(given.text, rule.words)
        yield {"type": "text", "text": ""}, [{"type": "text_delta", "text": one} for one in texts]
    for call in given.calls:
        text = call.json or json.dumps(call.input)
        halves = (text[: len(text) // 2], text[len(text) // 2 :])
        pieces = [{"type": "input_json_delta", "partial_json": half} for half in halves]
        yield {"type": "tool_use", "id": _id("toolu"), "name": call.name, "input": {}}, pieces


def _message(model: str, usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": _id("msg"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _whole(model: str, usage: dict[str, int], given: Answer, rule: Rule) -> dict[str, Any]:
    said = [{"type": "text", "text": given.text}] if given.text or not given.calls else []
    called = [
        {"type": "tool_use", "id": _id("toolu"), "name": call.name, "input": call.input}
        for call in given.calls
    ]
    thought = {"type": "thinking", "thinking": rule.thinking, "signature": SIGNATURE}
    return {
        **_message(model, {**usage, "output_tokens": _length(given)}),
        "content": [*([thought] if rule.thinking else []), *said, *called],
        **_stop(given, rule),
    }


def _stop(given: Answer, rule: Rule) -> dict[str, Any]:
    if given.stop_reason != "refusal":
        return {"stop_reason": given.stop_reason}
    details = {"type": "refusal", "category": None, "explanation": rule.refusal or None}
    return {"stop_reason": "refusal", "stop_details": details}


def _length(given: Answer) -> int:
    return max(
        1, len(tokens_of(" ".join([given.text, *(json.dumps(call.input) for call in given.calls)])))
    )


def _error(
    status: int, message: str, kind: str = "", retry_after: float | None = None
) -> web.Response:
    headers = {"request-id": _id("req")}
    if retry_after is not None:
        headers["retry-after"] = f"{retry_after:g}"
    error = {"type": kind or TYPES.get(status, "api_error"), "message": message}
    body = {"type": "error", "error": error, "request_id": headers["request-id"]}
    return web.json_response(body, status=status, headers=headers)


async def _json(request: web.Request) -> Any:
    """Return the body; None for one that is no JSON."""
    try:
        return await request.json()
    except ValueError:
        return None


def _shown(request: web.Request) -> dict[str, str]:
    named = {name.lower(): value for name, value in request.headers.items()}
    return {name: value for name, value in named.items() if name not in KEY_HEADERS}


def _peer(request: web.Request) -> str:
    host, port, *_ = request.get_extra_info("peername")
    return f"{host}:{port}"


def _reset(request: web.Request) -> None:
    """End the connection with RST."""
    if (transport := request.transport) is None:
        return
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def _id(kind: str) -> str:
    return f"{kind}_{uuid4().hex[:24]}"
