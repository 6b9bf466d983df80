"""Claude, through Anthropic's SDK."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing
from typing import Any, cast

import httpx2
from anthropic import APIStatusError, AsyncAnthropic, AsyncStream, DefaultAioHttpClient
from anthropic.types import Message, RawMessageStreamEvent

from services.agents.adapters.claude_errors import FOREIGN, model_error, status_of
from services.agents.adapters.claude_messages import call_of
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.adapters.claude_reading import Reading
from services.agents.adapters.gathering import Gathering
from services.agents.adapters.patience import Patience
from services.agents.adapters.server_sent_events import EventReader
from services.agents.ports import ModelEvent, ModelRequest

_LOG = logging.getLogger(__name__)
_JSON = json.JSONDecoder()
_Stream = AsyncStream[RawMessageStreamEvent]

IDLE_SECONDS = 30.0
"""That a connection is kept for the next call: to open one takes longer than to ask."""
END_SECONDS = 1.0
"""From an answer's last event to the end of the response."""


@asynccontextmanager
async def claude(options: ClaudeOptions, *, connections: int) -> AsyncIterator["ClaudeModel"]:
    """Open the one client of the process; *connections* is its limit.

    A limit below the calls that are made at once would make some of them wait for each other.
    """
    # At their debug level these loggers write whole requests, with all that the user said.
    for name in ("anthropic", "httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Of the SDK's two this one parses in C, and its pool does not look at every connection for
    # every request: a call of fifty pieces takes half the processor time.
    http = DefaultAioHttpClient(
        limits=httpx2.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=IDLE_SECONDS,
        ),
        # The waits for an answer are measured where pings can be told from words.
        timeout=httpx2.Timeout(None, connect=options.connect_timeout),
    )
    async with AsyncAnthropic(
        api_key=options.api_key,
        base_url=options.base_url,
        http_client=http,
        # The attempts of a turn are the retries: counted, seen by the caller, bounded together,
        # and without a worker's place held while they wait.
        max_retries=0,
        # Ours are the spans; and who runs the API need not know our trace ids.
        open_telemetry={"traces": False, "propagation": False},
    ) as client:
        yield ClaudeModel(client, options)


class ClaudeModel:
    """See `claude`."""

    def __init__(self, client: AsyncAnthropic, options: ClaudeOptions) -> None:
        self._client = client
        self._options = options
        self._url = str(client.base_url.join("v1/messages"))
        self.gathering = Gathering()

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        first_word_by = asyncio.get_running_loop().time() + self._options.first_token_timeout
        response = await self._open(request, first_word_by)
        events = self._events(request, response, first_word_by)
        try:
            yield events
        finally:
            await events.aclose()
            await response.aclose()  # if it was not read to its end: the connection

    async def _open(self, request: ModelRequest, first_word_by: float) -> httpx2.Response:
        call = call_of(request, self._options)
        try:
            # As it is sent: the SDK would copy the call twice before it writes it as JSON.
            body = json.dumps(call, ensure_ascii=False).encode()
            async with asyncio.timeout_at(first_word_by):
                stream = await self._client.post(
                    self._url, content=body, cast_to=Message, stream=True, stream_cls=_Stream
                )
                return stream.response
        except FOREIGN as error:
            _note(request, error)
            raise model_error(error) from error

    async def _events(
        self, request: ModelRequest, response: httpx2.Response, first_word_by: float
    ) -> AsyncGenerator[ModelEvent, None]:
        reading = Reading(model=request.model or self._options.model)
        try:
            async with aclosing(self._reads(response, reading, first_word_by)) as reads:
                async for _ in reads:
                    for one in reading.news():
                        yield one
        except FOREIGN as error:
            for one in reading.news():
                yield one
            if not reading.complete:
                _note(request, error)
                raise model_error(error) from error
        for event in reading.ending():
            yield event

    async def _reads(
        self, response: httpx2.Response, reading: Reading, first_word_by: float
    ) -> AsyncGenerator[None, None]:
        """Note what the response tells, and yield after each read from the network.

        Beyond the last event to the response's end: only then is the connection used again.
        """
        clock, reader, reads = (
            asyncio.get_running_loop().time,
            EventReader(),
            response.aiter_bytes(),
        )
        with closing(Patience(first_word_by)) as patience, self.gathering.answer():
            while (read := await patience.wait(anext(reads, None))) is not None:
                if reading.take(_told(reader.take(read), response)) and reading.said:
                    seconds = END_SECONDS if reading.complete else self._options.token_timeout
                    patience.move(clock() + seconds)
                yield
                if reading.said and not reading.complete:
                    await self.gathering.pause(_transport(response))


def _transport(response: httpx2.Response) -> asyncio.ReadTransport | None:
    """Return where the response comes from; None once it is whole, or if the SDK hides it."""
    source = getattr(getattr(response.stream, "_stream", None), "_aiohttp_response", None)
    transport = getattr(getattr(source, "connection", None), "transport", None)
    return cast("asyncio.ReadTransport | None", transport)


def _told(events: Iterable[str], response: httpx2.Response) -> Iterator[Mapping[str, Any]]:
    """Read the events of a stream; raises APIStatusError for an error that it tells.

    Not as the SDK's models, which take most of the time of a stream. Pings are left out: they
    keep the connection, and say nothing of the model.
    """
    for data in events:
        event = _read(data)
        if (kind := event["type"]) == "error":
            raise APIStatusError("error in the stream", response=response, body=event)
        if kind != "ping":
            yield event


def _read(data: str) -> dict[str, Any]:
    # In a third of the time that json.loads takes.
    event, end = _JSON.raw_decode(text := data.strip())
    if end < len(text) or not isinstance(event, dict):
        raise ValueError("an event is no object")
    return event


def _note(request: ModelRequest, error: Exception) -> None:
    """Log what Claude's operators ask for: never the error's own text, which may quote the user."""
    if isinstance(error, APIStatusError):
        about = (status_of(error), error.type, error.request_id)
        _LOG.warning("turn %s: Claude answered %d %s, request id %s", request.turn_id, *about)
        return
    _LOG.warning("turn %s: the call of Claude failed: %s", request.turn_id, type(error).__name__)
