"""Each agent asks the model in the way that its settings say."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.agents.adapters.claude import claude
from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.adapters.scripted import ScriptedModel
from services.agents.ports import Author, ModelEvent, ModelMessage, ModelRequest
from services.agents.settings import AgentsSettings
from services.agents.tuned_model import AgentTuning, TunedModel, Tuning
from services.runtime.settings import BadSettings, load
from tests.agents.test_socratic import SOCRATIC
from tests.emulators.anthropic import anthropic_emulator
from tests.fakes.workers import office


async def test_two_agents_of_a_worker_ask_two_models_in_their_own_way() -> None:
    tuning = Tuning(
        direct=AgentTuning(model="large", effort="high"), socratic=AgentTuning(max_tokens=50)
    )
    async with anthropic_emulator() as emulator:
        options = ClaudeOptions(
            api_key="key", base_url=emulator.url, model="usual", effort="low", max_tokens=99
        )
        async with (
            claude(options, connections=9) as model,
            office(model, tuning=tuning) as place,
        ):
            await place.ask("Why?")
            direct = (await place.finished()).outcome
            await place.ask("Why?", session=SOCRATIC)
            await place.finished()
        asked = [
            (seen.body["model"], seen.body["output_config"], seen.body["max_tokens"])
            for seen in emulator.requests
        ]
    assert asked == [("large", {"effort": "high"}, 99), ("usual", {"effort": "low"}, 50)]
    assert direct.usage[0].model == "large"


def test_the_environment_tunes_one_agent_and_leaves_the_others() -> None:
    environ = {
        "MAIEUTIC_MODEL_AGENTS_CONTEXT_MODEL": "small",
        "MAIEUTIC_MODEL_AGENTS_CONTEXT_MAX_TOKENS": "300",
        "MAIEUTIC_MODEL_LOOP_ROUNDS": "2",
    }
    settings = load(AgentsSettings, environ=environ)
    assert settings.model.agents.context == AgentTuning(model="small", max_tokens=300)
    assert settings.model.agents.direct == AgentTuning()
    assert settings.model.loop.rounds == 2
    with pytest.raises(BadSettings):
        load(AgentsSettings, environ={"MAIEUTIC_MODEL_AGENTS_DIRECT_EFFORT": "huge"})


class Asked(ScriptedModel):
    """Keeps the last request."""

    request: ModelRequest

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.request = request
        async with super().stream(request) as events:
            yield events


@pytest.mark.parametrize(
    ("asked", "allowed", "limit"),
    [(None, 0, None), (None, 50, 50), (70, 0, 70), (70, 50, 50), (30, 50, 30)],
)
async def test_of_two_limits_the_smaller_holds(
    asked: int | None, allowed: int, limit: int | None
) -> None:
    model = Asked()
    tuned = TunedModel(model, Tuning(direct=AgentTuning(max_tokens=allowed)))
    message = ModelMessage(author=Author.USER, text="Why?")
    request = ModelRequest(turn_id="t", system="", messages=(message,), max_tokens=asked)
    async with tuned.stream(request) as events:
        assert [event async for event in events]
    assert model.request.max_tokens == limit
