"""What a stream of Anthropic's API tells, event by event. Pure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from services.agents.errors import (
    ContextTooLarge,
    ModelRefused,
    ModelRejected,
    ModelSilent,
    ModelUnavailable,
)
from services.agents.ports import ModelUsage, ModelWait, TextDelta, ToolCall

CUT = ("max_tokens", "model_context_window_exceeded")
"""Stop reasons of an answer that ends before its end."""

MOST_LEVELS = 100
"""Of a tool's input: no tool takes so many, and deeper ones exceed how deep Python's own code goes,
each part of it and each version at another depth."""

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
        """What a tool is called with; None if that is no JSON object, or none to be sent back."""
        text = "".join(self.pieces.get("partial_json", ()))
        try:
            value = json.loads(text) if text else self.opened.get("input")
            # Python reads infinite numbers and half characters, and whoever writes them fails.
            json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) and _is_flat(value) else None

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

    model: str
    """Which one answers: the one that was asked, until the stream names it."""
    fresh_tokens: int = 0
    written_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    stop_reason: str = ""
    refusal: str = field(default="", repr=False)
    """Why the model declines, in its own words."""
    said: bool = False
    """Whether a word of the answer has come, or a piece of a tool's input."""
    complete: bool = False
    _blocks: dict[int, _Block] = field(default_factory=dict, repr=False)
    _words: list[str] = field(default_factory=list, repr=False)
    """Those that are not told yet."""
    _counted: bool = False
    """Whether counts have come that are not told yet."""

    def take(self, events: Iterable[Mapping[str, Any]]) -> bool:
        """Note the events; returns whether there were any.

        Raises KeyError, TypeError, ValueError and AttributeError for an event without its fields;
        those before it are noted, and so is what it says is consumed, whatever else it lacks.
        """
        event = None
        for event in events:
            match event["type"]:
                case "content_block_delta":
                    self._append(event)
                case "content_block_start":
                    self._open(event)
                case "message_start":
                    self._count(event["message"]["usage"])
                    self.model = event["message"]["model"]
                case "message_delta":
                    self._count(event["usage"])
                    self._stop(event["delta"])
                case "message_stop":
                    self.complete = True
        return event is not None

    def news(self) -> Sequence[TextDelta | ModelUsage]:
        """Return what has come since the last call: text in one, and what is consumed by now."""
        news: list[TextDelta | ModelUsage] = []
        if self._words:
            news.append(TextDelta(text="".join(self._words)))
            self._words = []
        if self._counted:
            news.append(self.consumed())
            self._counted = False
        return news

    def ending(self) -> Sequence[ModelWait | ModelUsage]:
        """Return the last events of the call; raises ModelError if there is no whole answer."""
        if self.stop_reason == "refusal":
            raise ModelRefused(self.refusal or "Claude declined to answer this.")
        if not self.complete or not self.stop_reason:
            raise ModelUnavailable("The answer of Claude broke off.")
        if self.stop_reason == "tool_use" and (calls := self._calls()):
            return ModelWait(calls=calls, carried=self._carried()), self.consumed()
        if self.stop_reason == "pause_turn" and (carried := self._carried()):
            return ModelWait(calls=(), carried=carried), self.consumed()
        if all(block["type"] != "text" for block in self._carried()):
            raise self._silence()
        return (self.consumed(),)

    def _open(self, event: Mapping[str, Any]) -> None:
        block = event["content_block"]
        self._blocks[event["index"]] = _Block(opened=block)
        self.said = self.said or block["type"] == "tool_use"
        if block["type"] == "text":
            self._speak(str(block["text"]))

    def _append(self, event: Mapping[str, Any]) -> None:
        delta = event["delta"]
        block, name = self._blocks.get(event["index"]), _PIECES.get(delta["type"])
        if block is None or name is None:
            return
        piece = str(delta[name])
        block.pieces.setdefault(name, []).append(piece)
        if name == "text":
            self._speak(piece)

    def _speak(self, words: str) -> None:
        if words:
            self.said = True
            self._words.append(words)

    def _stop(self, delta: Mapping[str, Any]) -> None:
        self.stop_reason = delta.get("stop_reason") or ""
        self.refusal = (delta.get("stop_details") or {}).get("explanation") or ""

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
                "Claude used up its tokens before it said a word: ask with a larger budget if "
                "there is one; else its operator has to raise MAIEUTIC_MODEL_CLAUDE_MAX_TOKENS "
                "or lower MAIEUTIC_MODEL_CLAUDE_EFFORT."
            )
        if self.stop_reason in CUT:
            return ContextTooLarge("The conversation fills what Claude can read: ask in a new one.")
        return ModelSilent("Claude ended its answer before it said a word.")

    def _count(self, usage: Mapping[str, Any]) -> None:
        """Take the counts, which are totals; what an event leaves out stays."""
        self._counted = True
        self.fresh_tokens = int(usage.get("input_tokens") or self.fresh_tokens)
        self.written_tokens = int(usage.get("cache_creation_input_tokens") or self.written_tokens)
        self.cached_tokens = int(usage.get("cache_read_input_tokens") or self.cached_tokens)
        self.output_tokens = int(usage.get("output_tokens") or self.output_tokens)


def _is_flat(value: Any) -> bool:
    """Whether the value has no more than `MOST_LEVELS`."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return True
    return False


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
