"""Which model answers in embedded mode, where vectors are kept, and what bounds turns there."""

from pathlib import Path

import pytest

from services.agents.main import open_model
from services.agents.settings import AgentsSettings, ModelSettings
from services.embedded import _Wiring, load_embedded
from services.runtime.settings import BadSettings


def test_without_a_key_the_offline_model_answers() -> None:
    assert load_embedded({}).model == ModelSettings()


def test_the_key_of_anthropic_in_the_environment_lets_claude_answer() -> None:
    model = load_embedded({"ANTHROPIC_API_KEY": "key", "ANTHROPIC_BASE_URL": "http://here"}).model
    assert model.kind == "claude"
    assert (model.claude.api_key, model.claude.base_url) == ("key", "http://here")


def test_our_own_key_alone_lets_claude_answer_too() -> None:
    model = load_embedded({"MAIEUTIC_MODEL_CLAUDE_API_KEY": "key"}).model
    assert (model.kind, model.claude.api_key) == ("claude", "key")


def test_our_own_variables_come_first() -> None:
    environ = {
        "ANTHROPIC_API_KEY": "theirs",
        "ANTHROPIC_BASE_URL": "http://theirs",
        "MAIEUTIC_MODEL_CLAUDE_BASE_URL": "http://ours",
        "MAIEUTIC_MODEL_KIND": "offline",
    }
    model = load_embedded(environ).model
    assert (model.kind, model.claude.base_url) == ("offline", "http://ours")
    ours = load_embedded({**environ, "MAIEUTIC_MODEL_CLAUDE_API_KEY": "ours"}).model
    assert ours.claude.api_key == "ours"


def test_no_key_is_shown() -> None:
    assert "my-key" not in repr(load_embedded({"ANTHROPIC_API_KEY": "my-key"}))


async def test_claude_without_a_key_is_a_bad_setting() -> None:
    settings = AgentsSettings(model=ModelSettings(kind="claude"))
    with pytest.raises(BadSettings, match="MAIEUTIC_MODEL_CLAUDE_API_KEY"):
        async with open_model(settings):
            pass


def test_without_a_key_vectors_are_kept_in_the_home() -> None:
    assert load_embedded({}).index_url == ""


@pytest.mark.parametrize("name", ["PINECONE_API_KEY", "MAIEUTIC_PINECONE_API_KEY"])
def test_a_key_of_pinecone_keeps_vectors_there(name: str) -> None:
    settings = load_embedded({name: "my-key"})
    assert (settings.index_url, settings.pinecone.api_key) == ("pinecone://maieutic", "my-key")
    assert "my-key" not in repr(settings)


def test_a_folder_for_vectors_can_be_named_whatever_key_there_is() -> None:
    environ = {"PINECONE_API_KEY": "key", "MAIEUTIC_INDEX_URL": "local:///vectors"}
    assert load_embedded(environ).index_url == "local:///vectors"


def test_what_bounds_turns_that_say_nothing_bounds_those_of_one_process_too(tmp_path: Path) -> None:
    environ = {
        "MAIEUTIC_BUDGET_TURN_TOKENS": "9",
        "MAIEUTIC_BUDGET_SESSION_COST_MICROS": "8",
        "MAIEUTIC_TIME_BUDGET_LONG": "7",
        "MAIEUTIC_MAX_ATTEMPTS": "6",
    }
    wiring = _Wiring(load_embedded(environ), tmp_path, tmp_path)
    settings = wiring._session_settings("redis://127.0.0.1")
    assert (settings.budget.turn_tokens, settings.budget.session_cost_micros) == (9, 8)
    assert (settings.time_budget.long, settings.max_attempts) == (7, 6)
