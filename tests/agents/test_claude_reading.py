"""What is read of a stream of Anthropic's API whose events are not what they should be."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.agents.adapters.claude_errors import FOREIGN
from services.agents.adapters.claude_reading import Reading
from services.agents.ports import ModelUsage

ASKED, NAMED = "claude-asked", "claude-named"
STARTS = {"type": "message_start", "message": {"model": NAMED, "usage": {"input_tokens": 7}}}


def read(*events: Mapping[str, Any]) -> ModelUsage:
    """Return what is told of a stream that cannot be read after the last event."""
    reading = Reading(model=ASKED)
    with pytest.raises(FOREIGN):
        reading.take(events)
    (usage,) = reading.news()
    assert isinstance(usage, ModelUsage)
    return usage


def test_a_start_that_names_no_model_is_counted_for_the_one_that_was_asked() -> None:
    usage = read({"type": "message_start", "message": {"usage": {"input_tokens": 7}}})
    assert (usage.model, usage.input_tokens) == (ASKED, 7)


@pytest.mark.parametrize("lacking", [{}, {"delta": None}, {"delta": {"stop_details": "words"}}])
def test_an_end_that_says_not_how_is_counted(lacking: Mapping[str, Any]) -> None:
    usage = read(STARTS, {"type": "message_delta", "usage": {"output_tokens": 9}, **lacking})
    assert (usage.model, usage.input_tokens, usage.output_tokens) == (NAMED, 7, 9)


def test_a_count_that_is_no_number_leaves_those_that_are() -> None:
    counts = {"input_tokens": 8, "output_tokens": "many"}
    usage = read(STARTS, {"type": "message_delta", "usage": counts, "delta": {}})
    assert (usage.input_tokens, usage.output_tokens) == (8, 0)
