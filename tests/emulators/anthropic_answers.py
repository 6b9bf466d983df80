"""Answers made from requests: the same request has the same answer. Pure."""

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tests.emulators.anthropic_plan import Call, Rule

PROMPT_LIMIT = 200_000
CACHED_FROM = 1024
"""Tokens of the least prefix that is cached."""
QUOTES = 2

_PASSAGE = re.compile(r'<passage number="(\d+)"[^>]*>\n(.*?)\n</passage>', re.DOTALL)
_DATA = re.compile(r"<(summary|messages)>\n(.*?)\n</\1>", re.DOTALL)
_WORDS = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+$")


class BadRequest(Exception):
    """The request is not one that the API takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is said, and which tools are called."""

    text: str = ""
    calls: Sequence[Call] = ()
    stop_reason: str = "end_turn"


def check(body: Any) -> None:
    """Raise BadRequest for what the real API refuses, and for authors that do not alternate.

    The real one merges those; others that speak its protocol do not.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    for name in ("model", "max_tokens", "messages"):
        if not body.get(name):
            raise BadRequest(f"{name}: Field required")
    _check_messages(body["messages"])
    if (tokens := input_tokens(body)) > PROMPT_LIMIT:
        raise BadRequest(f"prompt is too long: {tokens} tokens > {PROMPT_LIMIT} maximum")


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    for number, message in enumerate(messages):
        if message.get("role") not in ("user", "assistant"):
            raise BadRequest(f"messages.{number}.role: Input should be 'user' or 'assistant'")
        if not message.get("content") or any(not text.strip() for text in texts_of(message)):
            raise BadRequest("messages: text content blocks must contain non-whitespace text")
    if messages[0]["role"] != "user":
        raise BadRequest("messages: first message must use the user role")
    _check_calls(messages)
    if any(before["role"] == after["role"] for before, after in pairwise(messages)):
        raise BadRequest("messages: roles must alternate between user and assistant")


def _check_calls(messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise BadRequest unless each call has its result at the start of the next message."""
    for before, after in pairwise([{"content": ""}, *messages, {"content": ""}]):
        called = [block["id"] for block in _blocks(before, "tool_use")]
        answered = [block["tool_use_id"] for block in _blocks(after, "tool_result")]
        if sorted(called) != sorted(answered):
            raise BadRequest(
                "messages: `tool_use` ids were found without `tool_result` blocks immediately "
                f"after, or the other way round: {called}, {answered}"
            )
        kinds = [block["type"] for block in after["content"] if answered]
        if kinds[: len(answered)] != ["tool_result"] * len(answered):
            raise BadRequest("messages: tool results come first")


def _blocks(message: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [] if isinstance(content, str) else [one for one in content if one["type"] == kind]


def texts_of(message: Mapping[str, Any]) -> list[str]:
    """Return a message's texts; those of tool results, too."""
    content = message["content"]
    if isinstance(content, str):
        return [content]
    results = [block.get("content") for block in content if block["type"] == "tool_result"]
    said = [block["text"] for block in content if block["type"] == "text"]
    return said + [one if isinstance(one, str) else json.dumps(one) for one in results]


def last_text(body: Mapping[str, Any]) -> str:
    """Return the last message as one text."""
    return "\n".join(texts_of(body["messages"][-1]))


def answer(body: Mapping[str, Any], rule: Rule) -> Answer:
    """Return what the model says to the request."""
    if rule.calls:
        given = Answer(text=rule.text or "", calls=rule.calls, stop_reason="tool_use")
    elif rule.text is not None:
        given = Answer(text=rule.text)
    elif (tool := _called_tool(body)) is not None:
        call = Call(name=tool["name"], input=instance(tool["input_schema"]))
        given = Answer(calls=[call], stop_reason="tool_use")
    elif schema := ((body.get("output_config") or {}).get("format") or {}).get("schema"):
        given = Answer(text=json.dumps(instance(schema)))
    else:
        given = Answer(text=_reply(body))
    return _stopped(given, body["max_tokens"], rule)


def _stopped(given: Answer, max_tokens: int, rule: Rule) -> Answer:
    words = tokens_of(given.text)
    if rule.refusal:
        return Answer(text=given.text, stop_reason="refusal")
    if rule.stop_reason:
        return replace(given, stop_reason=rule.stop_reason)
    if len(words) > max_tokens:
        return Answer(text="".join(words[:max_tokens]), stop_reason="max_tokens")
    return given


def _reply(body: Mapping[str, Any]) -> str:
    if (summary := _summed_up(last_text(body))) is not None:
        return summary
    *_, question = texts_of(body["messages"][-1])
    passages = _PASSAGE.findall(last_text(body))[:QUOTES]
    if not passages:
        return f"You asked, as message {len(body['messages'])}: {_PASSAGE.sub('', question)}"
    quotes = [f"“{html.unescape(text).split('. ')[0]}” [{number}]" for number, text in passages]
    return "\n\n".join([f"To “{question}” the passages say:", *quotes])


def _summed_up(asked: str) -> str | None:
    """Return all that is to be summed up, word by word; None if nothing is."""
    parts = {name: json.loads(text) for name, text in _DATA.findall(asked)}
    if "messages" not in parts:
        return None
    return "\n".join([parts.get("summary", ""), *(one["text"] for one in parts["messages"])])


def _called_tool(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the tool that must be called, or that the question names."""
    tools, choice = body.get("tools") or [], body.get("tool_choice") or {}
    content = body["messages"][-1]["content"]
    if (
        not tools
        or choice.get("type") == "none"
        or (not isinstance(content, str) and content[0]["type"] == "tool_result")
    ):
        return None
    if choice.get("type") == "any":
        return dict(tools[0])
    named = choice.get("name") if choice.get("type") == "tool" else None
    wanted = (tool for tool in tools if (named or tool["name"]) == tool["name"])
    return next((tool for tool in wanted if named or tool["name"] in last_text(body)), None)


def instance(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> Any:
    """Return a value that a JSON schema of the kind that models are given accepts."""
    root = root or schema
    if "$ref" in schema:
        return instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][0]
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return instance(choices[0], root)
    return _of_type(schema, root)


def _of_type(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: instance(one, root) for name, one in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema.get("items", {"type": "string"}), root)]
    plain = {"string": "text", "integer": 1, "number": 1.5, "boolean": True}
    return plain.get(kind)


def tokens_of(text: str) -> list[str]:
    """Split a text into what the emulator takes for tokens: words with the space before them."""
    return _WORDS.findall(text)


def input_tokens(body: Mapping[str, Any]) -> int:
    """Count the tokens of a request."""
    counted = [*system_texts(body), json.dumps(body.get("tools") or "")[1:-1]]
    for message in body["messages"]:
        counted += texts_of(message)
    return sum(len(text.split()) for text in counted)


def system_texts(body: Mapping[str, Any]) -> list[str]:
    """Return the texts of the system prompt."""
    system = body.get("system") or []
    return [system] if isinstance(system, str) else [block["text"] for block in system]


def cached_prefix(body: Mapping[str, Any]) -> str:
    """Return the tools and instructions that the request wants cached, if they are long enough."""
    tools, system = body.get("tools") or [], body.get("system") or []
    parts = [json.dumps(tools)] if any("cache_control" in tool for tool in tools) else []
    if not isinstance(system, str) and any("cache_control" in block for block in system):
        parts = [json.dumps(tools)] * bool(tools) + system_texts(body)
    prefix = "\n".join(parts)
    return prefix if len(prefix.split()) >= CACHED_FROM else ""


def deltas(text: str, words: int) -> Iterator[str]:
    """Cut a text into pieces of so many words."""
    pieces: Sequence[str] = tokens_of(text)
    for start in range(0, len(pieces), words):
        yield "".join(pieces[start : start + words])
