"""The code agent: what it plans, what it writes, what it refuses, and what it never does twice."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from maieutic.bus.v1.bus_pb2 import RunTurn
from maieutic.v1.session_service_pb2 import SESSION_MODE_SOCRATIC, Session
from maieutic.v1.specification_pb2 import CONFLICT_SEVERITY_HIGH, Conflict, Specification
from maieutic.v1.turn_service_pb2 import (
    TURN_KIND_CODE,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    Findings,
    TurnFrame,
)
from services.agents.code_files import MOST_FILE_BYTES, MOST_FILES, MOST_TURN_BYTES
from services.agents.errors import ModelSilent
from services.agents.ports import ModelEvent, ModelRequest, ModelUsage, TextDelta
from tests.fakes.turn_work import LiveStore
from tests.fakes.workers import Office, office
from tests.waiting import wait_until

SOCRATIC = Session(mode=SESSION_MODE_SOCRATIC)
TEXTS = {"README.md": "# Library\n", "src/library.py": "import json\n\nBOOKS = []\n"}


def planned(*paths: str) -> dict[str, Any]:
    files = [{"path": path, "purpose": f"Is {path}.", "interface": ""} for path in paths]
    return {"files": files, "assumptions": ["It is used by one at a time."]}


class Scribe:
    """Answers a plan and the files of it as a test says, one after the other, and counts."""

    def __init__(self, *plans: Mapping[str, Any], **texts: Sequence[str]) -> None:
        self.plans = list(plans) or [planned(*TEXTS)]
        self.texts: dict[str, list[str]] = {path: [text] for path, text in TEXTS.items()}
        self.texts |= {path: list(given) for path, given in texts.items()}
        self.asked: list[ModelRequest] = []
        self.written: Counter[str] = Counter()
        """How often each file was asked for."""
        self.cut = False
        self.holding = ""
        """The file that does not come to its end,"""
        self.going = asyncio.Event()
        """until this is set."""

    @asynccontextmanager
    async def stream(self, request: ModelRequest) -> AsyncIterator[AsyncIterator[ModelEvent]]:
        self.asked.append(request)
        yield self._events(request)

    async def _events(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        text, path = self._answer(request)
        if not text:
            raise ModelSilent("as Claude does")
        for start in range(0, len(text), size := max(5, len(text) // 20)):
            yield TextDelta(text=text[start : start + size])
        if path and path == self.holding:
            await self.going.wait()
        yield ModelUsage(model="scribe", input_tokens=3, output_tokens=5, cut=self.cut)

    def _answer(self, request: ModelRequest) -> tuple[str, str]:
        if request.step == "code_plan":
            return json.dumps(self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]), ""
        file = next(section for section in request.sections if section.name == "file")
        path = json.loads(file.text)["path"]
        self.written[path] += 1
        given = self.texts[path]
        return (given.pop(0) if len(given) > 1 else given[0]), path


def code(place: Office, text: str = "A library, please.") -> RunTurn:
    return place.job(text, session=SOCRATIC, kind=TURN_KIND_CODE, lane="long", steps=["code_plan"])


async def generated(place: Office, job: RunTurn) -> Any:
    await place.publish(job, "long")
    outcome = (await place.finished()).outcome
    await place.idle()
    return outcome


def marks(log: Sequence[TurnFrame]) -> list[tuple[str, bool]]:
    """Return which files a log tells of, and whether as finished."""
    return [
        (frame.file.path, frame.file.HasField("artifact"))
        for frame in log
        if frame.HasField("file")
    ]


def shown(log: Sequence[TurnFrame]) -> dict[str, str]:
    """Return each file's text as a watcher puts it together."""
    texts: dict[str, str] = {}
    path = ""
    for frame in log:
        if frame.HasField("file") and not frame.file.HasField("artifact"):
            path = frame.file.path
            texts[path] = ""
        if frame.HasField("delta"):
            texts[path] += frame.delta.text
    return texts


async def test_files_are_planned_and_written_one_by_one_and_are_the_outcomes_artifacts() -> None:
    scribe = Scribe()
    async with office(scribe) as place:
        job = code(place)
        outcome = await generated(place, job)
        turn = place.store.turns[job.turn_id]
        kept = {one.path: place.store.files[one.artifact_id] for one in outcome.artifacts}
    assert outcome.state == TURN_STATE_COMPLETED
    assert {path: text.decode() for path, text in kept.items()} == TEXTS
    assert marks(turn.log) == [(path, done) for path in TEXTS for done in (False, True)]
    assert shown(turn.log) == TEXTS
    assert [step.step for step in turn.steps] == ["code_plan", "code_file:1", "code_file:2"]
    assert [used.prompt for used in outcome.usage] == ["code_plan_v1", *["code_file_v1"] * 2]
    assert [one.media_type for one in outcome.artifacts] == ["text/markdown", "text/x-python"]
    for told in (*TEXTS, "It is used by one at a time."):
        assert told in outcome.text
    assert all("A library, please." in asked.messages[0].text for asked in scribe.asked)


async def test_deltas_are_not_merged_across_files() -> None:
    async with office(Scribe()) as place:
        place.store.batches_allowed = asyncio.Semaphore(0)  # all frames wait together
        job = code(place)
        await place.publish(job, "long")
        await wait_until(lambda: bool(place.store.turns.get(job.turn_id)))
        for _ in range(200):
            place.store.batches_allowed.release()
        await place.finished()
        assert shown(place.store.turns[job.turn_id].log) == TEXTS


async def test_where_nothing_is_known_and_nothing_asked_no_model_is_called() -> None:
    scribe = Scribe()
    async with office(scribe) as place:
        outcome = await generated(place, code(place, ""))
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "NO_SPECIFICATIONS")
    assert "instructions" in outcome.explanation
    assert not scribe.asked


async def test_what_holds_is_given_and_open_conflicts_are_named_as_not_decided() -> None:
    gone, first, second = (
        Specification(specification_id=name, category="c", key="k", value=f"Take {name}.")
        for name in ("a", "b", "c")
    )
    gone.withdrawn = True
    store, scribe = LiveStore(), Scribe()
    store.known = Findings(
        specifications=[gone, first, second],
        conflicts=[Conflict(first=first, second=second, severity=CONFLICT_SEVERITY_HIGH)],
    )
    async with office(scribe, store=store) as place:
        outcome = await generated(place, code(place, ""))
    assert outcome.state == TURN_STATE_COMPLETED
    for request in scribe.asked:
        given = next(one.text for one in request.sections if one.name == "specifications")
        assert "Take b." in given
        assert "Take a." not in given
    assert "Not decided: “Take b.” or “Take c.”." in outcome.text
    assert "Still to be decided" in outcome.text


@pytest.mark.parametrize(
    "paths",
    [
        ["/etc/passwd"],
        ["../outside.py"],
        ["a/../../b.py"],
        ["a\\b.py"],
        ["C:/x.py"],
        ["x\x00.py"],
        ["a\u202egnp.py"],
        ["con.txt"],
        [".git/hooks/post-checkout"],
        ["A.py", "a.py"],
        ["a", "a/b.py"],
        ["same.py", "same.py"],
        [""],
        [],
        [f"{number}.py" for number in range(MOST_FILES + 1)],
    ],
)
async def test_a_plan_with_hostile_paths_is_made_once_again_and_then_fails_the_turn(
    paths: list[str],
) -> None:
    scribe = Scribe(planned(*paths))
    async with office(scribe) as place:
        job = code(place)
        outcome = await generated(place, job)
        assert not place.store.files
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "BAD_FILE_PLAN")
    first, second = scribe.asked
    assert len(first.messages) == 1
    assert "cannot be used" in second.messages[-1].text
    assert outcome.attempts == 1


async def test_a_plan_that_is_mended_is_written() -> None:
    scribe = Scribe(planned("../README.md"), planned("README.md"))
    async with office(scribe) as place:
        outcome = await generated(place, code(place))
    assert [one.path for one in outcome.artifacts] == ["README.md"]
    assert [used.step for used in outcome.usage] == ["code_plan", "code_plan", "code_file"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * (MOST_FILE_BYTES + 1), "FILE_TOO_LARGE"),
        ("ü" * (MOST_FILE_BYTES // 2 + 1), "FILE_TOO_LARGE"),
        ("a\x00b", "FILE_NOT_TEXT"),
        ("", "FILE_EMPTY"),
        ("```python\n```\n", "FILE_EMPTY"),
    ],
)
async def test_a_file_that_cannot_be_used_is_written_once_again_and_then_fails_the_turn(
    text: str, reason: str
) -> None:
    scribe = Scribe(**{"src/library.py": [text]})
    async with office(scribe) as place:
        job = code(place)
        outcome = await generated(place, job)
        log = place.store.turns[job.turn_id].log
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, reason)
    assert "src/library.py" in outcome.explanation
    assert [one.path for one in outcome.artifacts] == ["README.md"], "what is finished stays"
    assert scribe.written == {"README.md": 1, "src/library.py": 2}
    assert "cannot be used" in scribe.asked[-1].messages[0].text
    assert marks(log)[-2:] == [("src/library.py", False)] * 2, "its text so far is void"


async def test_a_file_that_fits_at_the_second_try_is_the_one_that_is_kept() -> None:
    large = "x" * (MOST_FILE_BYTES + 1)
    scribe = Scribe(planned("a.py"), **{"a.py": [large, "print()\n"]})
    async with office(scribe) as place:
        outcome = await generated(place, code(place))
        (artifact,) = outcome.artifacts
        assert place.store.files[artifact.artifact_id] == b"print()\n"


async def test_a_file_that_ends_with_the_tokens_is_not_taken_for_whole() -> None:
    scribe = Scribe()
    scribe.cut = True
    scribe.plans = [planned("README.md")]
    async with office(scribe) as place:
        outcome = await generated(place, code(place))
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "FILE_CUT")
    assert not outcome.artifacts


async def test_all_files_together_have_a_most_of_bytes() -> None:
    paths = [f"{number}.txt" for number in range(MOST_TURN_BYTES // MOST_FILE_BYTES + 1)]
    scribe = Scribe(planned(*paths), **{path: ["x" * MOST_FILE_BYTES] for path in paths})
    async with office(scribe) as place:
        outcome = await generated(place, code(place))
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "CODE_TOO_LARGE")
    assert [one.path for one in outcome.artifacts] == paths[:-1]


async def test_a_worker_that_goes_away_leaves_the_rest_to_the_next_one() -> None:
    store = LiveStore()
    first = Scribe()
    first.holding = "src/library.py"
    async with office(first, store=store, grace=2.0) as place:
        job = code(place)
        await place.publish(job, "long")
        await wait_until(lambda: first.written["src/library.py"] == 1)
        await place.stop()
    second = Scribe()
    async with office(second, store=store) as place:
        outcome = await generated(place, job)
        log = store.turns[job.turn_id].log
    assert [one.path for one in outcome.artifacts] == list(TEXTS)
    assert [used.step for used in outcome.usage] == ["code_plan", "code_file", "code_file"]
    assert second.written == {"src/library.py": 1}, "no finished step is called again"
    assert all(request.step == "code_file" for request in second.asked)
    snapshot = log[0].snapshot
    assert [(file.path, file.HasField("artifact")) for file in snapshot.files] == [
        ("README.md", True)
    ]
    assert shown(log[1:]) == {"src/library.py": TEXTS["src/library.py"]}


async def test_a_file_is_paid_once_though_the_archive_is_away_when_it_is_put() -> None:
    scribe = Scribe()
    async with office(scribe) as place:
        place.store.away_for_artifacts = True
        job = code(place)
        await place.publish(job, "long")
        await wait_until(lambda: place.store.calls["PutTurnArtifact"] > 2)
        place.store.away_for_artifacts = False
        outcome = (await place.finished()).outcome
    assert (outcome.state, outcome.attempts) == (TURN_STATE_COMPLETED, 1)
    assert set(scribe.written.values()) == {1}


async def test_a_stale_worker_puts_nothing_and_says_nothing() -> None:
    scribe = Scribe()
    scribe.holding = "README.md"
    async with office(scribe) as place:
        job = code(place)
        await place.publish(job, "long")
        await wait_until(lambda: scribe.written["README.md"] == 1)
        place.store.fence_off(job.turn_id)
        await place.idle()
        scribe.going.set()
        assert not place.store.files
        assert [step.step for step in place.store.turns[job.turn_id].steps] == ["code_plan"]
        assert place.store.calls["CompleteTurn"] == place.store.calls["FailTurn"] == 0


async def test_files_that_the_live_store_lost_are_told_again_and_not_written_again() -> None:
    scribe = Scribe()
    async with office(scribe) as place:
        place.store.lose_at_complete = True
        job = code(place)
        outcome = await generated(place, job)
        log = place.store.turns[job.turn_id].log
    assert [one.path for one in outcome.artifacts] == list(TEXTS)
    assert set(scribe.written.values()) == {1}
    assert [file.path for file in log[0].snapshot.files] == list(TEXTS)


@pytest.mark.parametrize("left", [0, 1])
async def test_steps_that_a_failover_lost_are_told_again_and_their_files_not_written_again(
    left: int,
) -> None:
    scribe = Scribe()
    scribe.holding = "src/library.py"
    async with office(scribe) as place:
        job = code(place)
        await place.publish(job, "long")
        await wait_until(lambda: scribe.written["src/library.py"] == 1)
        del place.store.turns[job.turn_id].steps[left:]
        scribe.going.set()
        outcome = (await place.finished()).outcome
        steps = place.store.turns[job.turn_id].steps
    assert outcome.state == TURN_STATE_COMPLETED
    assert [one.path for one in outcome.artifacts] == list(TEXTS)
    assert [step.step for step in steps] == ["code_plan", "code_file:1", "code_file:2"]
    assert set(scribe.written.values()) == {1}


async def lost_while_written(place: Office, scribe: Scribe, path: str) -> RunTurn:
    """Let the live store lose the turn while the file is written; return its job."""
    job = code(place)
    await place.publish(job, "long")
    await wait_until(lambda: scribe.written[path] == 1)
    lost = place.store.lose(job.turn_id)
    await wait_until(lambda: job.turn_id in place.store.turns)
    assert [step.step for step in lost.steps] == ["code_plan", "code_file:1"]
    return job


async def test_files_that_the_live_store_lost_are_in_the_outcome_of_a_failure_too() -> None:
    scribe = Scribe()
    scribe.holding = "src/library.py"
    async with office(scribe) as place:
        await lost_while_written(place, scribe, "src/library.py")
        scribe.cut = True
        scribe.going.set()
        outcome = (await place.finished()).outcome
    assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "FILE_CUT")
    assert [one.path for one in outcome.artifacts] == ["README.md"]
    assert [used.step for used in outcome.usage].count("code_plan") == 1


async def test_a_worker_that_goes_away_hands_on_what_the_live_store_lost() -> None:
    scribe = Scribe()
    scribe.holding = "src/library.py"
    async with office(scribe, grace=2.0) as place:
        job = await lost_while_written(place, scribe, "src/library.py")
        await place.stop()
        steps = place.store.turns[job.turn_id].steps
    assert [step.step for step in steps] == ["code_plan", "code_file:1"]


async def test_each_step_is_committed_once_however_many_there_are() -> None:
    paths = [f"{number}.py" for number in range(MOST_FILES)]
    scribe = Scribe(planned(*paths), **{path: ["pass\n"] for path in paths})
    async with office(scribe) as place:
        outcome = await generated(place, code(place))
        assert place.store.calls["CompleteStep"] == MOST_FILES + 1
    assert [one.path for one in outcome.artifacts] == paths
