"""Claude, through Anthropic's SDK."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx2
from anthropic import (
    APIStatusError,
    AsyncAnthropic,
    AsyncStream,
    DefaultAsyncHttpxClient,
    omit,
)
from anthropic.types import (
    MessageDeltaUsage,
    OutputConfigParam,
    RawMessageStreamEvent,
    RefusalStopDetails,
    Usage,
)

from services.agents.adapters.claude_errors import FOREIGN, model_error, status_of
from services.agents.adapters.claude_messages import conversation, system_prompt
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.errors import ModelRefused, ModelRejected, ModelUnavailable
from services.agents.ports import ModelEvent, ModelRequest, ModelUsage, TextDelta

_LOG = logging.getLogger(__name__)

CUT = ("max_tokens", "model_context_window_exceeded")
"""Stop reasons of an answer that ends before its end."""
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
    http = DefaultAsyncHttpxClient(
        limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
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

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        """Start one call."""
        first_word_by = asyncio.get_running_loop().time() + self._options.first_token_timeout
        stream = await self._open(request, first_word_by)
        events = self._events(request, stream, first_word_by)
        try:
            yield events
        finally:
            await events.aclose()
            await stream.close()  # of a response that was not read to its end: the connection

    async def _open(
        self, request: ModelRequest, first_word_by: float
    ) -> AsyncStream[RawMessageStreamEvent]:
        options, messages = self._options, conversation(request)
        output = _output(request, options)
        try:
            async with asyncio.timeout_at(first_word_by):
                return await self._client.messages.create(
                    model=options.model,
                    max_tokens=min(request.max_tokens or options.max_tokens, options.max_tokens),
                    system=system_prompt(request) or omit,
                    messages=messages,
                    output_config=output or omit,
                    stream=True,
                )
        except FOREIGN as error:
            _note(request, error)
            raise model_error(error) from error

    async def _events(
        self,
        request: ModelRequest,
        stream: AsyncStream[RawMessageStreamEvent],
        first_word_by: float,
    ) -> AsyncGenerator[ModelEvent, None]:
        loop, patience = asyncio.get_running_loop(), self._options.token_timeout
        reading, limit = _Reading(), first_word_by
        # Read beyond the last event to the response's end: only then is the connection used again.
        while True:
            try:
                async with asyncio.timeout_at(limit):
                    text = reading.take(await anext(stream))
            except StopAsyncIteration:
                break
            except FOREIGN as error:
                if reading.complete:
                    break
                _note(request, error)
                raise model_error(error) from error
            if reading.said:
                limit = loop.time() + (END_SECONDS if reading.complete else patience)
            if text:
                yield TextDelta(text=text)
        yield reading.usage()


@dataclass(slots=True, kw_only=True)
class _Reading:
    """What a stream has told so far."""

    model: str = ""
    fresh_tokens: int = 0
    written_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    stop_reason: str = ""
    refusal: RefusalStopDetails | None = field(default=None, repr=False)
    said: bool = False
    complete: bool = False

    def take(self, event: RawMessageStreamEvent) -> str:
        """Note the event, and return the text that it brings."""
        text = ""
        if event.type == "message_start":
            self.model = event.message.model
            self._count(event.message.usage)
        elif event.type == "content_block_start" and event.content_block.type == "text":
            text = event.content_block.text
        elif event.type == "content_block_delta" and event.delta.type == "text_delta":
            text = event.delta.text
        elif event.type == "message_delta":
            self._count(event.usage)
            self.stop_reason = event.delta.stop_reason or ""
            self.refusal = event.delta.stop_details
        elif event.type == "message_stop":
            self.complete = True
        self.said = self.said or bool(text)
        return text

    def usage(self) -> ModelUsage:
        """Return what the call consumed; raises ModelError for a call without a whole answer."""
        if self.stop_reason == "refusal":
            said = self.refusal.explanation if self.refusal else None
            raise ModelRefused(said or "Claude declined to answer this.")
        if not self.complete or not self.stop_reason:
            raise ModelUnavailable("The answer of Claude broke off.")
        if self.stop_reason == "pause_turn":
            raise ModelUnavailable("Claude paused in the middle of its answer.")
        if not self.said:
            raise self._silence()
        return ModelUsage(
            model=self.model,
            input_tokens=self.fresh_tokens + self.written_tokens + self.cached_tokens,
            output_tokens=self.output_tokens,
            cached_tokens=self.cached_tokens,
            cache_write_tokens=self.written_tokens,
            cut=self.stop_reason in CUT,
        )

    def _silence(self) -> ModelRejected | ModelUnavailable:
        if self.stop_reason == "max_tokens":
            return ModelRejected(
                "Claude used up its tokens before it said a word: its operator has to raise "
                "MAIEUTIC_MODEL_CLAUDE_MAX_TOKENS or lower MAIEUTIC_MODEL_CLAUDE_EFFORT."
            )
        if self.stop_reason in CUT:
            return ModelRejected("The conversation fills what Claude can read: ask in a new one.")
        return ModelUnavailable("Claude ended its answer before it said a word.")

    def _count(self, usage: Usage | MessageDeltaUsage) -> None:
        """Take the counts, which are totals; what an event leaves out stays."""
        self.fresh_tokens = usage.input_tokens or self.fresh_tokens
        self.written_tokens = usage.cache_creation_input_tokens or self.written_tokens
        self.cached_tokens = usage.cache_read_input_tokens or self.cached_tokens
        self.output_tokens = usage.output_tokens or self.output_tokens


def _output(request: ModelRequest, options: ClaudeOptions) -> OutputConfigParam:
    output: OutputConfigParam = {}
    if options.effort:
        output["effort"] = options.effort
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": dict(request.schema)}
    return output


def _note(request: ModelRequest, error: Exception) -> None:
    """Log what Claude's operators ask for: never the error's own text, which may quote the user."""
    if isinstance(error, APIStatusError):
        about = (status_of(error), error.type, error.request_id)
        _LOG.warning("turn %s: Claude answered %d %s, request id %s", request.turn_id, *about)
        return
    _LOG.warning("turn %s: the call of Claude failed: %s", request.turn_id, type(error).__name__)
