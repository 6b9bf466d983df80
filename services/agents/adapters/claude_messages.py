"""A conversation as Anthropic's API wants it. Pure."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from anthropic.types import (
    MessageParam,
    OutputConfigParam,
    TextBlockParam,
    ToolParam,
    ToolResultBlockParam,
)
from anthropic.types.message_create_params import MessageCreateParamsStreaming

from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.errors import ModelRejected
from services.agents.ports import Author, ModelMessage, ModelRequest, ModelRound, ToolResult

NOTHING_BEFORE = "[The user has said nothing before this.]"


def call_of(request: ModelRequest, options: ClaudeOptions) -> MessageCreateParamsStreaming:
    """Return the call of the API; raises ModelRejected if there is no question to answer."""
    call: MessageCreateParamsStreaming = {
        "model": request.model or options.model,
        "max_tokens": min(request.max_tokens or options.max_tokens, options.max_tokens),
        "messages": conversation(request),
        "stream": True,
    }
    if instructions := system_prompt(request):
        call["system"] = instructions
    if told := tools(request):
        # Tools that were called have to be named even where none may be called.
        call["tools"] = told
        if not request.may_call:
            call["tool_choice"] = {"type": "none"}
    if output := _output(request, options):
        call["output_config"] = output
    return call


def system_prompt(request: ModelRequest) -> list[TextBlockParam]:
    """Return the instructions, the part of every request of an agent that the API may cache.

    They come first and never change, so what differs from turn to turn is behind them. The API
    ignores the mark while they are shorter than its least cached prefix.
    """
    if not request.system.strip():
        return []
    return [{"type": "text", "text": request.system, "cache_control": {"type": "ephemeral"}}]


def tools(request: ModelRequest) -> list[ToolParam]:
    """Return the tools, which come before the instructions and are cached with or without them."""
    told: list[ToolParam] = [
        {"name": one.name, "description": one.description, "input_schema": dict(one.schema)}
        for one in request.tools
    ]
    if told:
        told[-1]["cache_control"] = {"type": "ephemeral"}
    return told


def conversation(request: ModelRequest) -> list[MessageParam]:
    """Return the messages: the user first, then by turns, none of them blank.

    The summary comes before them all. What is known and the passages come before the question in
    its message, each as a block. What the model has said and called since then comes last, with
    the results. So from turn to turn all that is before the question stays the same, until there
    is a new summary, and the API may cache it.
    Raises ModelRejected if the last message is not the user's.
    """
    said = [message for message in request.messages if message.text.strip()]
    if not said or said[-1].author is not Author.USER:
        raise ModelRejected("There is no question to answer: the last message must be the user's.")
    *earlier, question = _by_turns(said)
    turns = [(one.author, [_block(one.text)]) for one in earlier]
    turns.append((Author.USER, [*_besides(request), _block(question.text)]))
    first_author, first = turns[0]
    if first_author is Author.AGENT:
        turns.insert(0, (Author.USER, _before(request) or [_block(NOTHING_BEFORE)]))
    else:
        first[:0] = _before(request)
    if len(turns) > 1 and request.schema is None:
        # Not where a form is filled in: each is about another part of the conversation.
        turns[-2][1][-1]["cache_control"] = {"type": "ephemeral"}
    messages: list[MessageParam] = [
        {"role": "user", "content": blocks}
        if author is Author.USER
        else {"role": "assistant", "content": blocks}
        for author, blocks in turns
    ]
    return [*messages, *_rounds(request.rounds)]


def _output(request: ModelRequest, options: ClaudeOptions) -> OutputConfigParam:
    output: OutputConfigParam = {}
    if effort := request.effort or options.effort:
        output["effort"] = effort
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": dict(request.schema)}
    return output


def _besides(request: ModelRequest) -> list[TextBlockParam]:
    """Return what the question is to be answered from."""
    known = "\n".join(
        f"<{section.name}>\n{section.text}\n</{section.name}>" for section in request.sections
    )
    return [_block(text) for text in (known, request.grounding) if text]


def _before(request: ModelRequest) -> list[TextBlockParam]:
    """Return what comes before the first message."""
    before = []
    if request.summary:
        before.append(_block(f"<summary>\n{request.summary}\n</summary>"))
    if request.left_out:
        before.append(_block(f"<left_out>\n{request.left_out}\n</left_out>"))
    return before


def _block(text: str) -> TextBlockParam:
    return {"type": "text", "text": text}


def _rounds(rounds: Sequence[ModelRound]) -> list[MessageParam]:
    """Return the model's own content as it came, and the results: each call has its own.

    After a pause the model goes on with what it said: that is one message.
    """
    messages: list[MessageParam] = []
    said: list[Any] = []
    for one in rounds:
        said += one.wait.carried if isinstance(one.wait.carried, list) else ()
        if one.results:
            results = [_result(result) for result in one.results]
            messages += [
                {"role": "assistant", "content": said},
                {"role": "user", "content": results},
            ]
            said = []
    return [*messages, {"role": "assistant", "content": said}] if said else messages


def _result(result: ToolResult) -> ToolResultBlockParam:
    block: ToolResultBlockParam = {
        "type": "tool_result",
        "tool_use_id": result.call_id,
        "content": result.text,
    }
    if result.failed:
        block["is_error"] = True
    return block


def _by_turns(said: list[ModelMessage]) -> list[ModelMessage]:
    """Merge what one author said in a row, as after a turn that failed."""
    return [
        ModelMessage(author=author, text="\n\n".join(message.text for message in messages))
        for author, messages in groupby(said, key=lambda message: message.author)
    ]
