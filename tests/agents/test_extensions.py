"""Agents, tools and prompts of other packages; the example is installed as its users do it."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from maieutic.session.v1.turn_work_service_pb2 import HandOn
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_CODE,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    TurnOutcome,
)
from services.agents.adapters.offline import OfflineModel
from services.agents.agents.asking import schema_of
from services.agents.entry_points import ExtensionOptions, load_extensions
from services.agents.turn_work import EXPLANATION_CHARACTERS
from services.runtime.channel import MEBIBYTE
from services.runtime.settings import BadSettings
from tests.agents.listening import Listening
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import Office, office
from tests.packages import EXAMPLE, importable, install_example, write_package

AGENTS, TOOLS, PROMPTS = "maieutic.agents", "maieutic.tools", "maieutic.prompts"
SOURCE = """
import asyncio
from collections.abc import Callable
from pydantic import BaseModel, RootModel, create_model
from services.agents.extension import (
    TURN_KIND_CODE, Answer, Delta, Findings, HandOn, NotDoable, TeamTool
)

class Plain:
    def __init__(self, parts):
        pass
    async def run(self, context):
        yield Delta(text="Plainly.")
        yield Answer(text="Plainly.")

class Handing:
    def __init__(self, parts):
        pass
    async def run(self, context):
        hand_on = HandOn(kind=TURN_KIND_CODE, instructions="Small.")
        yield Answer(text="", hand_on=(hand_on,))

class Choosy:
    def __init__(self, parts):
        pass
    async def run(self, context):
        raise NotDoable("TOO_SHORT", "Write more.")
        yield

class Quitting:
    def __init__(self, parts):
        pass
    async def run(self, context):
        yield Delta(text="Well,")
        raise asyncio.CancelledError

class Failing:
    def __init__(self, parts):
        pass
    async def run(self, context):
        yield Answer(text="", usage=("much",), findings=Findings())

class Storing:
    def __init__(self, parts):
        pass
    async def run(self, context):
        stored = await context.put_artifact("a.txt", "x" * len(context.text) * 1_000_000)
        yield Answer(text="", artifacts=(stored,))

class Wordy:
    def __init__(self, parts):
        pass
    async def run(self, context):
        raise NotDoable("WORDY", "Half " + chr(0xD83D) + " and " + "x" * 5_000_000)
        yield

class Burdening:
    def __init__(self, parts):
        pass
    async def run(self, context):
        hand_on = HandOn(kind=TURN_KIND_CODE, instructions="x" * 5_000_000)
        yield Answer(text="", hand_on=(hand_on,))

class Misleading:
    def __init__(self, parts):
        pass
    async def run(self, context):
        yield Answer(text="", hand_on=(HandOn(kind=TURN_KIND_CODE + 1),))

class Dear:
    def __init__(self, parts):
        raise KeyError("ACME_KEY is not set")

def idle(parts):
    return object()

class Form(BaseModel):
    word: str

async def broken(context, given):
    raise LookupError("the secret is 42")

async def quitting(context, given):
    raise asyncio.CancelledError

def tool(name, form=Form, call=broken):
    return TeamTool(name=name, description="d", form=form, call=call, notice="n")

BROKEN = tool("break_it")
QUIT = tool("quit_it", call=quitting)
SAME = tool("break_it")
OURS = tool("search_documents")
SHOUTED = tool("Shout")
REMOTE = tool("far__away")
FORMLESS = tool("formless", form=dict)
LISTING = tool("listing", form=RootModel[list[str]])
CALLING = tool("calling", form=create_model("Calling", back=(Callable[[], int], ...)))
NUMBER = 7
"""


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example, installed."""
    folder = tmp_path_factory.mktemp("acme")
    install_example(folder)
    with importable(folder):
        yield folder


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """A package of another team, in which nearly everything is wrong."""
    agents = {name: f"other:{value}" for name, value in (("direct", "Plain"), ("context", "Plain"))}
    agents |= {"handing": "other:Handing", "choosy": "other:Choosy", "quits": "other:Quitting"}
    agents |= {
        "conflict": "other:Failing",
        "fails": "other:Failing",
        "misleads": "other:Misleading",
    }
    agents |= {"storing": "other:Storing", "wordy": "other:Wordy", "burdens": "other:Burdening"}
    agents |= {"dear": "other:Dear", "idle": "other:idle", "seven": "other:NUMBER"}
    agents |= {"Loud": "other:Plain", "lost": "nowhere:Agent", "absent": "other:Absent"}
    tools = {
        name.lower(): f"other:{name}" for name in ("BROKEN", "QUIT", "SAME", "OURS", "SHOUTED")
    }
    tools |= {"remote": "other:REMOTE", "formless": "other:FORMLESS", "seven": "other:NUMBER"}
    tools |= {"listing": "other:LISTING", "calling": "other:CALLING"}
    prompts = {"seven": "other:NUMBER", "bare": "other"}
    entries = {AGENTS: agents, TOOLS: tools, PROMPTS: prompts}
    write_package(tmp_path, "other", SOURCE, entries)
    with importable(tmp_path):
        yield tmp_path


def using(**options: Any) -> ExtensionOptions:
    return ExtensionOptions(**options)


def notices(place: Office, turn_id: str) -> list[tuple[str, str]]:
    frames = place.store.turns[turn_id].log
    return [(f.notice.code, f.notice.text) for f in frames if f.HasField("notice")]


def prompts_of(outcome: TurnOutcome) -> set[str]:
    return {usage.prompt for usage in outcome.usage}


@pytest.mark.usefixtures("acme")
async def test_the_examples_agent_answers_who_asks_for_it_and_its_tool_is_called() -> None:
    calls = [[{"name": "look_up_term", "input": {"term": "Headrace"}}]]
    model = Listening(text="The headrace is missing.", calls=calls)
    chosen = using(agents=("reviewer",), tools=("glossary",))
    async with office(model, extensions=chosen) as place:
        turn_id = await place.ask("Water flows to the wheel.", agent="reviewer")
        outcome = (await place.finished()).outcome
    assert (outcome.state, outcome.text) == (TURN_STATE_COMPLETED, "The headrace is missing.")
    assert [one.text for one in model.told[0]] == [
        "The channel that carries water from the dam to the wheel."
    ]
    assert model.asked[0].system.startswith("You review what the user has written")
    assert {(usage.step, usage.prompt) for usage in outcome.usage} == {
        ("reviewer", "acme/reviewer_v1")
    }
    assert notices(place, turn_id) == [
        ("REVIEWING", "Reading your text"),
        ("USING_TOOL", "Looking into the glossary"),
    ]


@pytest.mark.usefixtures("acme")
async def test_a_teams_tool_is_for_our_agents_too_and_tells_what_it_does_not_have() -> None:
    inputs = [{"term": "weir"}, {"word": "weir"}]
    calls = [[{"name": "look_up_term", "input": given} for given in inputs]]
    model = Listening(calls=calls)
    async with office(model, extensions=using(tools=("glossary",))) as place:
        await place.ask("What is a weir?")
        assert (await place.finished()).outcome.state == TURN_STATE_COMPLETED
    unknown, malformed = model.told[0]
    assert (unknown.text, unknown.failed) == ("The glossary does not have 'weir'.", True)
    assert malformed.failed
    assert "term: Field required" in malformed.text


@pytest.mark.usefixtures("acme")
async def test_a_packages_prompt_takes_the_place_of_ours_and_the_others_stay() -> None:
    store, model = LiveStore(), Listening()
    async with office(model, store=store, extensions=using(prompts=("acme",))) as place:
        await place.ask("What is a weir?")
        assert prompts_of((await place.finished()).outcome) == {"acme/direct_without_documents_v1"}
        store.document_ids.append(place.add_document("weirs", "A weir is low."))
        await place.ask("What is a weir?")
        (label,) = prompts_of((await place.finished()).outcome)
    assert label.startswith("direct_v")
    assert "Acme's engineers" in model.asked[0].system
    assert "Acme" not in model.asked[1].system


@pytest.mark.usefixtures("acme")
async def test_a_folders_prompt_comes_before_a_packages_in_its_newest_version(
    tmp_path: Path,
) -> None:
    for version in (2, 10, 9):
        file = tmp_path / f"direct_without_documents_v{version}.md"
        file.write_text(f"Answer as version {version}.\n")
    (tmp_path / "..data.md").write_text("A mounted folder has such files.")
    chosen = using(prompts=("acme",), prompts_folder=str(tmp_path))
    model = Listening()
    async with office(model, extensions=chosen) as place:
        await place.ask("What is a weir?")
        labels = prompts_of((await place.finished()).outcome)
    assert labels == {"folder/direct_without_documents_v10"}
    assert model.asked[0].system == "Answer as version 10."


@pytest.mark.usefixtures("acme")
async def test_what_is_installed_and_not_named_in_the_settings_is_not_used() -> None:
    model = Listening()
    async with office(model) as place:
        await place.ask("Review this.", agent="reviewer")
        outcome = (await place.finished()).outcome
        await place.ask("What is a weir?")
        assert (await place.finished()).outcome.state == TURN_STATE_COMPLETED
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "NO_AGENT")
    assert outcome.explanation == "There is no agent 'reviewer' here; there are: direct, socratic."
    assert "look_up_term" not in {tool.name for tool in model.asked[0].tools}


async def test_an_agent_of_ours_may_be_asked_for_in_a_session_of_another_mode() -> None:
    model = Listening()
    async with office(model) as place:
        job = place.job("Just tell me.", agent="direct")
        job.session.mode = SESSION_MODE_SOCRATIC
        await place.publish(job)
        await place.finished()
    assert model.asked[0].step == "direct"


@pytest.mark.usefixtures("other")
async def test_an_agent_that_is_named_as_one_of_ours_takes_its_place() -> None:
    model = Listening()
    async with office(model, extensions=using(agents=("direct", "context"))) as place:
        await place.ask("What is a weir?")
        assert (await place.finished()).outcome.text == "Plainly."
        turn_id = await place.ask("Use SQLite.", steps=["context"])
        assert (await place.finished()).outcome.state == TURN_STATE_COMPLETED
        assert [step.step for step in place.store.turns[turn_id].steps] == ["context"]
    assert model.asked == []


@pytest.mark.usefixtures("other")
async def test_a_teams_agent_hands_on_and_refuses_as_ours_do() -> None:
    async with office(extensions=using(agents=("handing", "choosy"))) as place:
        turn_id = await place.ask("Write it.", agent="handing")
        await place.finished()
        assert list(place.store.turns[turn_id].hand_on) == [
            HandOn(kind=TURN_KIND_CODE, instructions="Small.")
        ]
        await place.ask("a", agent="choosy")
        refused = (await place.finished()).outcome
    assert (refused.reason, refused.explanation) == ("TOO_SHORT", "Write more.")


def test_the_example_imports_nothing_of_the_services_but_the_documented_module() -> None:
    imported = {
        line.split()[1]
        for file in (EXAMPLE / "acme_maieutic").glob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith(("from services", "import services"))
    }
    assert imported == {"services.agents.extension"}


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("agent", ["quits", "fails", "misleads"])
async def test_an_agent_with_a_bug_fails_its_attempt_by_name_and_leaves_its_place(
    agent: str,
) -> None:
    """It quits as if it were cancelled, or gives what is no answer."""
    async with office(extensions=using(agents=(agent,))) as place:
        await place.ask("Go.", agent=agent, max_attempts=1)
        outcome = (await place.finished()).outcome
        assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "AGENT_ERROR")
        await place.idle()
        assert place.waiting_jobs == 0


@pytest.mark.usefixtures("other")
async def test_what_no_message_has_room_for_ends_its_turn_by_name() -> None:
    async with office(extensions=using(agents=("wordy", "burdens"))) as place:
        await place.ask("Go.", agent="wordy")
        wordy = (await place.finished()).outcome
        assert wordy.reason == "WORDY"
        assert wordy.explanation == "Half ? and ".ljust(EXPLANATION_CHARACTERS, "x")
        await place.ask("Go.", agent="burdens")
        assert (await place.finished()).outcome.reason == "ANSWER_TOO_LARGE"


@pytest.mark.usefixtures("other")
async def test_a_file_of_a_teams_agent_is_stored_unless_it_is_too_large() -> None:
    async with office(extensions=using(agents=("storing",))) as place:
        await place.ask("1", agent="storing")
        (stored,) = (await place.finished()).outcome.artifacts
        assert place.store.files[stored.artifact_id] == b"x" * 1_000_000
        for size in (2, 5):  # more than may be stored, and more than a message holds
            await place.ask("1" * size, agent="storing")
            outcome = (await place.finished()).outcome
            assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "INVALID_ARGUMENT")
            assert f"at most {MEBIBYTE} bytes, has {size}000000" in outcome.explanation


@pytest.mark.usefixtures("other")
async def test_a_step_that_is_no_answer_fails_the_turn_by_name_and_keeps_those_before() -> None:
    async with office(OfflineModel(), extensions=using(agents=("conflict",))) as place:
        job = place.job("It must be fast.", steps=["context", "conflict"], max_attempts=1)
        await place.publish(job, "analysis")
        outcome = (await place.finished()).outcome
        assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "AGENT_ERROR")
        assert [step.step for step in place.store.turns[job.turn_id].steps] == ["context"]


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize(("tool", "name"), [("broken", "break_it"), ("quit", "quit_it")])
async def test_a_tool_with_a_bug_fails_its_call_and_no_turn(
    caplog: pytest.LogCaptureFixture, tool: str, name: str
) -> None:
    model = Listening(calls=[[{"name": name, "input": {"word": "a"}}]])
    async with office(model, extensions=using(tools=(tool,))) as place:
        await place.ask("Go.")
        assert (await place.finished()).outcome.state == TURN_STATE_COMPLETED
    ((result,),) = model.told
    assert result.failed
    assert "42" not in result.text
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    (logged,) = [one for one in errors if one.name.startswith("services.agents")]
    assert name in logged.getMessage()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"agents": ("reviwer",)}, "AGENTS: no installed package has an entry point 'reviwer'"),
        ({"agents": ("reviwer",)}, "there are: Loud, absent, burdens"),
        ({"agents": ("lost",)}, "'lost' (nowhere:Agent of other) cannot be imported: Module"),
        ({"agents": ("absent",)}, "'absent' (other:Absent of other) cannot be imported: Attrib"),
        ({"agents": ("seven",)}, "AGENTS: 'seven' is of the type int: its entry"),
        ({"agents": ("Loud",)}, "AGENTS: 'Loud': an agent is named by a lower-case letter"),
        ({"tools": ("seven",)}, "TOOLS: 'seven' is of the type int: its entry point has to n"),
        ({"tools": ("formless",)}, "whose form is a class of pydantic.BaseModel"),
        ({"tools": ("listing",)}, "with fields that JSON can hold"),
        ({"tools": ("calling",)}, "with fields that JSON can hold"),
        ({"tools": ("broken", "same")}, "TOOLS: 2 tools are called 'break_it'"),
        ({"tools": ("ours",)}, "TOOLS: 2 tools are called 'search_documents', those of Maieutic"),
        ({"tools": ("shouted",)}, "'shouted': the tool is called 'Shout': call it by lower-case"),
        ({"tools": ("remote",)}, "single underscores"),
        ({"prompts": ("seven",)}, "PROMPTS: 'seven' is of the type int: its entry"),
        ({"prompts": ("bare",)}, "PROMPTS: 'bare' is of the type module"),
        ({"prompts_folder": "/nowhere"}, "PROMPTS_FOLDER: /nowhere: cannot be read: "),
    ],
)
@pytest.mark.usefixtures("other")
def test_what_cannot_be_used_is_named_at_the_start(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSettings) as problem:
        load_extensions(using(**options))
    assert str(problem.value).startswith("MAIEUTIC_EXTENSIONS_")
    assert told in str(problem.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("dear", "AGENTS: 'dear' could not be made: KeyError: 'ACME_KEY is not set'"),
        ("idle", "AGENTS: 'idle' makes something of the type object, which is no Agent"),
    ],
)
@pytest.mark.usefixtures("other")
async def test_an_agent_that_cannot_be_made_is_named_at_the_start(name: str, told: str) -> None:
    with pytest.raises(BadSettings, match=told):
        async with office(extensions=using(agents=(name,))):
            pass


@pytest.mark.usefixtures("acme")
def test_a_field_may_be_called_as_a_bound_is() -> None:
    class Form(BaseModel):
        pattern: Annotated[str, Field(max_length=10)]
        maximum: int

    told = schema_of(Form)
    assert set(told["properties"]) == set(told["required"]) == {"pattern", "maximum"}
    assert told["properties"]["pattern"] == {"title": "Pattern", "type": "string"}


def test_of_two_packages_with_one_name_neither_is_guessed(tmp_path: Path) -> None:
    write_package(tmp_path, "rival", "", {AGENTS: {"reviewer": "rival:Reviewer"}})
    with importable(tmp_path), pytest.raises(BadSettings, match="acme-maieutic, rival:Reviewer of"):
        load_extensions(using(agents=("reviewer",)))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("direct.md", b"Answer.", "direct.md: rename it to <name>_v<version>.md"),
        ("direct_v0.md", b"Answer.", "direct_v0.md: rename it"),
        ("direct_v3.md", b" \n", "direct_v3.md: it is empty"),
        ("direct_v3.md", b"\xff\xfe", "cannot be read"),
        ("direct_v3.txt", b"Answer.", "there is no file <name>_v<version>.md in it"),
    ],
)
def test_a_folder_of_prompts_says_which_file_is_wrong(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadSettings) as problem:
        load_extensions(using(prompts_folder=str(tmp_path)))
    assert told in str(problem.value)
