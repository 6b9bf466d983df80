"""The estimate of what a call reads."""

from dataclasses import replace
from typing import Any

import pytest

from services.agents.ports import (
    Author,
    ModelMessage,
    ModelPassage,
    ModelRequest,
    ModelRound,
    ModelSection,
    ModelTool,
    ModelWait,
    ToolCall,
    ToolResult,
)
from services.agents.tokens import estimated_tokens

TEXT = "word " * 1000
REQUEST = ModelRequest(
    turn_id="t", system="", messages=(ModelMessage(author=Author.USER, text="Why?"),)
)
ROUND = ModelRound(
    wait=ModelWait(calls=(ToolCall(call_id="c", name="n", input={"query": TEXT}),)),
    results=(ToolResult(call_id="c", text=TEXT),),
)


@pytest.mark.parametrize(
    ("part", "least"),
    [
        ({"system": TEXT}, 2000),
        ({"summary": TEXT}, 2000),
        ({"messages": (ModelMessage(author=Author.USER, text=TEXT),)}, 2000),
        ({"grounding": TEXT}, 2000),
        ({"passages": (ModelPassage(number=1, document_name="d", text=TEXT),)}, 2000),
        ({"sections": (ModelSection(name="known", text=TEXT),)}, 2000),
        ({"schema": {"description": TEXT}}, 2000),
        ({"tools": (ModelTool(name="n", description=TEXT, schema={}),)}, 2600),
        ({"rounds": (ROUND,)}, 4000),
        ({"rounds": (ModelRound(wait=ModelWait(calls=(), carried=[TEXT]), results=()),)}, 2000),
    ],
)
def test_every_part_of_a_call_that_a_model_reads_is_counted_once(
    part: dict[str, Any], least: int
) -> None:
    more = estimated_tokens(replace(REQUEST, **part)) - estimated_tokens(REQUEST)
    assert least - 10 <= more < least + 100


def test_passages_that_are_given_as_text_are_not_counted_twice() -> None:
    passages = (ModelPassage(number=1, document_name="d", text=TEXT),)
    both = replace(REQUEST, grounding=f"<passage>{TEXT}</passage>", passages=passages)
    assert estimated_tokens(both) < 2200


@pytest.mark.parametrize(
    ("character", "most"), [("a", 2.5), ("я", 0.75), ("字", 0.5), ("🙂", 0.375)]
)
def test_a_script_whose_characters_are_longer_has_more_tokens(character: str, most: float) -> None:
    counted = estimated_tokens(replace(REQUEST, system=character * 3000)) - estimated_tokens(
        REQUEST
    )
    assert counted == 3000 / most
