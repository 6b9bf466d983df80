"""What a stream of Anthropic's API tells, event by event. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anthropic.types import (
    MessageDeltaUsage,
    RawContentBlockDeltaEvent,
    RawContentBlockStartEvent,
    RawMessageStreamEvent,
    RefusalStopDetails,
    Usage,
)

from services.agents.errors import ModelRefused, ModelRejected, ModelUnavailable
from services.agents.ports import ModelUsage, ModelWait, TextDelta, ToolCall

CUT = ("max_tokens", "model_context_window_exceeded")
"""Stop reasons of an answer that ends before its end."""

_PIECES = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}


@dataclass(slots=True, kw_only=True)
class _Block:
    """One block of the answer's content."""

    opened: dict[str, Any]
    pieces: dict[str, list[str]] = field(default_factory=dict)
    """By the name of what they are pieces of."""

    @property
    def input(self) -> Mapping[str, Any] | None:
        """What a tool is called with; None if that is no JSON object."""
        text = "".join(self.pieces.get("partial_json", ()))
        try:
            value = json.loads(text) if text else self.opened.get("input")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def whole(self) -> dict[str, Any]:
        """Return the block as the API takes it back."""
        block = dict(self.opened)
        for name, pieces in self.pieces.items():
            if name == "partial_json":
                block["input"] = self.input or {}
            else:
                block[name] = block.get(name, "") + "".join(pieces)
        return block


@dataclass(slots=True, kw_only=True)
class Reading:
    """What a stream has told so far."""

    model: str = ""
    fresh_tokens: int = 0
    written_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    stop_reason: str = ""
    refusal: RefusalStopDetails | None = field(default=None, repr=False)
    said: bool = False
    """Whether a word of the answer has come, or a piece of a tool's input."""
    complete: bool = False
    _blocks: dict[int, _Block] = field(default_factory=dict, repr=False)

    def take(self, event: RawMessageStreamEvent) -> Sequence[TextDelta | ModelUsage]:
        """Note the event, and return what it brings: text, or what is consumed by now."""
        before = self.consumed()
        if text := self._note(event):
            return (TextDelta(text=text),)
        consumed = self.consumed()
        return (consumed,) if consumed != before else ()

    def _note(self, event: RawMessageStreamEvent) -> str:
        text = ""
        if event.type == "message_start":
            self.model = event.message.model
            self._count(event.message.usage)
        elif event.type == "content_block_start":
            text = self._open(event)
        elif event.type == "content_block_delta":
            text = self._append(event)
        elif event.type == "message_delta":
            self._count(event.usage)
            self.stop_reason = event.delta.stop_reason or ""
            self.refusal = event.delta.stop_details
        elif event.type == "message_stop":
            self.complete = True
        self.said = self.said or bool(text)
        return text

    def ending(self) -> Sequence[ModelWait | ModelUsage]:
        """Return the last events of the call; raises ModelError if there is no whole answer."""
        if self.stop_reason == "refusal":
            said = self.refusal.explanation if self.refusal else None
            raise ModelRefused(said or "Claude declined to answer this.")
        if not self.complete or not self.stop_reason:
            raise ModelUnavailable("The answer of Claude broke off.")
        if self.stop_reason == "tool_use" and (calls := self._calls()):
            return ModelWait(calls=calls, carried=self._carried()), self.consumed()
        if self.stop_reason == "pause_turn" and (carried := self._carried()):
            return ModelWait(calls=(), carried=carried), self.consumed()
        if not self.said:
            raise self._silence()
        return (self.consumed(),)

    def _open(self, event: RawContentBlockStartEvent) -> str:
        block = event.content_block
        self._blocks[event.index] = _Block(opened=block.to_dict(mode="json"))
        self.said = self.said or block.type == "tool_use"
        return block.text if block.type == "text" else ""

    def _append(self, event: RawContentBlockDeltaEvent) -> str:
        delta = event.delta
        block, name = self._blocks.get(event.index), _PIECES.get(delta.type)
        if block is not None and name is not None:
            block.pieces.setdefault(name, []).append(getattr(delta, name))
        return delta.text if delta.type == "text_delta" else ""

    def _calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(call_id=block.opened["id"], name=block.opened["name"], input=block.input)
            for block in self._blocks.values()
            if block.opened["type"] == "tool_use"
        )

    def _carried(self) -> list[dict[str, Any]]:
        """Return the content, thoughts included, without texts that the API would not take back."""
        blocks = [block.whole() for block in self._blocks.values()]
        return [one for one in blocks if one["type"] != "text" or one["text"].strip()]

    def consumed(self) -> ModelUsage:
        """Return what the call has consumed so far."""
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
