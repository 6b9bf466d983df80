"""What sessions know of what agents have found: resolved, carried, restored, bounded."""

from functools import partial

import pytest

from maieutic.session.v1.record_pb2 import TurnRecord
from maieutic.v1.message_pb2 import Message
from maieutic.v1.specification_pb2 import (
    RESOLUTION_KIND_KEEP_BOTH,
    RESOLUTION_KIND_KEEP_FIRST,
    RESOLUTION_KIND_KEEP_SECOND,
    RESOLUTION_KIND_REPLACE,
    Conflict,
    Question,
    Resolution,
    ResolutionKind,
    Specification,
)
from maieutic.v1.specification_service_pb2 import ListSpecificationsRequest
from maieutic.v1.turn_service_pb2 import Findings
from services.runtime.channel import MEBIBYTE
from services.runtime.standing import open_conflicts, standing_specifications
from services.session.beginning import begin
from services.session.findings import (
    MOST_BYTES,
    MOST_QUESTIONS,
    MOST_SPECIFICATIONS,
    MOST_TEXT_CHARACTERS,
    forget,
    keep,
    named,
    resolve,
)
from services.session.model import Draft
from services.session.transitions import Claimant, claim
from tests.session.drafts import T0, TIMING, Memory, job, turn_id
from tests.session.stack import Stack, User, failure, reason
from tests.session.test_side_turns import analysis_of, settled, socratic, specified


def found_by(name: str, *values: str, key: str = "storage") -> Findings:
    turn = TurnRecord(job=job(name))
    return named(Findings(specifications=[specified(v, key) for v in values]), turn, T0)


def between(found: Findings) -> Findings:
    first, second = found.specifications
    turn = TurnRecord(job=job("c"))
    return named(Findings(conflicts=[Conflict(first=first, second=second)]), turn, T0)


def test_keeping_again_changes_nothing_not_even_the_revision() -> None:
    memory, found = Memory.with_session(), found_by("a", "SQLite", "Postgres")
    memory.apply(lambda d: keep(d, found))
    memory.apply(lambda d: keep(d, between(found)))
    before = memory.state()
    memory.apply(lambda d: keep(d, found))
    memory.apply(lambda d: keep(d, between(found)))
    assert memory.state() == before
    assert len(memory.annotations.findings.conflicts) == 1


def test_what_is_said_again_in_other_spelling_is_one_specification() -> None:
    memory = Memory.with_session()
    memory.apply(lambda d: keep(d, found_by("a", "SQLite")))
    memory.apply(lambda d: keep(d, found_by("b", " sqlite ")))
    assert [one.value for one in memory.annotations.findings.specifications] == ["SQLite"]


def test_what_is_found_is_kept_in_bounded_length() -> None:
    (long,) = found_by("a", "x" * 10_000, key="k" * 10_000).specifications
    assert (len(long.value), len(long.key)) == (1000, 64)


def test_a_session_keeps_no_more_than_its_limits() -> None:
    memory = Memory.with_session()
    values = [str(number) for number in range(MOST_SPECIFICATIONS + 5)]
    memory.apply(lambda d: keep(d, found_by("a", *values)))
    for number in range(MOST_QUESTIONS + 5):
        asked = Findings(questions=[Question(text=str(number))])
        found = named(asked, TurnRecord(job=job(f"q{number}")), T0)
        memory.apply(partial(keep, found=found))
    kept = memory.annotations.findings
    assert len(kept.specifications) == MOST_SPECIFICATIONS
    assert [question.text for question in kept.questions][:1] == ["5"]
    assert len(kept.questions) == MOST_QUESTIONS


def test_all_that_a_session_may_know_fits_a_claim_in_any_script() -> None:
    memory = Memory.with_session()
    known, wide = memory.annotations.findings, "漢" * MOST_TEXT_CHARACTERS
    for number in range(100):
        known.specifications.extend(
            found_by(f"s{number}", *(f"{n}{wide}" for n in range(4))).specifications
        )
    for number in range(MOST_QUESTIONS):
        known.questions.add(question_id=str(number), text=wide)
    before = known.ByteSize()
    assert before > MOST_BYTES
    memory.apply(lambda d: keep(d, found_by("late", f"late{wide}")))
    assert memory.annotations.findings.ByteSize() == before, "what there is stays, nothing is added"
    for number in range(20):
        memory.apply(partial(_said, number=number))
    memory.apply(lambda d: begin(d, job("a"), TIMING))
    who = Claimant(worker_id="w", claim_id="c")
    response = memory.apply(lambda d: claim(d, turn_id("a"), who, TIMING))
    assert response.ByteSize() < 4 * MEBIBYTE
    assert response.claim.findings.ByteSize() == before
    assert response.claim.window[-1].text == "text of a"


def _said(draft: Draft, number: int) -> None:
    draft.put_message(Message(message_id=str(number), text="x" * 200_000, position=number + 1))


def test_what_is_forgotten_takes_its_conflicts_along() -> None:
    memory = Memory.with_session()
    one, other = found_by("a", "SQLite"), found_by("b", "Postgres")
    memory.apply(lambda d: keep(d, one))
    memory.apply(lambda d: keep(d, other))
    both = Findings(specifications=[*one.specifications, *other.specifications])
    memory.apply(lambda d: keep(d, between(both)))
    memory.apply(lambda d: forget(d, job("a")))
    kept = memory.annotations.findings
    assert [one.value for one in kept.specifications] == ["Postgres"]
    assert not kept.conflicts


def decided(kind: ResolutionKind.ValueType) -> Memory:
    """Return a session in which turn c showed that a and b conflict, and the user has decided."""
    memory = Memory.with_session()
    one, other = found_by("a", "SQLite"), found_by("b", "Postgres")
    both = Findings(specifications=[*one.specifications, *other.specifications])
    conflicting = between(both)
    memory.apply(lambda d: keep(d, both))
    memory.apply(lambda d: keep(d, conflicting))
    resolution = Resolution(kind=kind, value="DuckDB" * (kind == RESOLUTION_KIND_REPLACE))
    memory.apply(lambda d: resolve(d, conflicting.conflicts[0].conflict_id, resolution))
    return memory


@pytest.mark.parametrize("kind", [RESOLUTION_KIND_KEEP_SECOND, RESOLUTION_KIND_REPLACE])
def test_what_was_withdrawn_for_what_is_forgotten_holds_again(
    kind: ResolutionKind.ValueType,
) -> None:
    memory = decided(kind)
    memory.apply(lambda d: forget(d, job("b")))
    kept = memory.annotations.findings
    assert [one.value for one in standing_specifications(kept)] == ["SQLite"]
    assert len(kept.specifications) == 1
    assert not kept.conflicts


def test_a_decision_outlives_the_turn_in_which_its_conflict_showed() -> None:
    memory = decided(RESOLUTION_KIND_REPLACE)
    before = memory.state()
    memory.apply(lambda d: forget(d, job("c")))
    assert memory.state() == before
    assert [one.value for one in standing_specifications(memory.annotations.findings)] == ["DuckDB"]


async def in_conflict(stack: Stack, user: User) -> tuple[str, Conflict]:
    """Make a session with two specifications that do not go together."""
    session_id = await socratic(user)
    turn = await user.begin(session_id, "SQLite, no, Postgres.")
    held = await stack.worker().claimed(await analysis_of(stack, turn))
    both = Findings(specifications=[specified("SQLite"), specified("Postgres")])
    first, second = (await held.complete_step("context", both)).findings.specifications
    await held.complete("", findings=Findings(conflicts=[Conflict(first=first, second=second)]))
    await stack.answer(turn.turn_id, "Which?")
    (conflict,) = await user.conflicts(session_id)
    return session_id, conflict


@pytest.mark.parametrize(
    ("kind", "value", "left"),
    [
        (RESOLUTION_KIND_KEEP_FIRST, "", ["SQLite"]),
        (RESOLUTION_KIND_KEEP_SECOND, "", ["Postgres"]),
        (RESOLUTION_KIND_KEEP_BOTH, "", ["SQLite", "Postgres"]),
        (RESOLUTION_KIND_REPLACE, "DuckDB", ["DuckDB"]),
    ],
)
async def test_a_resolution_says_what_holds_and_stands(
    stack: Stack, kind: ResolutionKind.ValueType, value: str, left: list[str]
) -> None:
    user = stack.user()
    session_id, conflict = await in_conflict(stack, user)
    resolved = await user.resolve(session_id, conflict.conflict_id, "r", kind=kind, value=value)
    assert resolved.resolution.kind == kind
    assert await user.resolve(session_id, conflict.conflict_id, "r", kind=kind, value=value) == (
        resolved
    )
    assert sorted(one.value for one in await user.specifications(session_id)) == sorted(left)
    assert await user.conflicts(session_id) == []
    assert await user.conflicts(session_id, include_closed=True) == [resolved]
    again = user.resolve(session_id, conflict.conflict_id, "s", kind=kind, value=value)
    assert reason(await failure(again)) == "CONFLICT_RESOLVED"
    other = user.resolve(session_id, conflict.conflict_id, "r", kind=kind, value="another")
    assert reason(await failure(other)) == "REQUEST_ID_TAKEN"


async def test_a_resolved_conflict_is_not_found_again(stack: Stack) -> None:
    user = stack.user()
    session_id, conflict = await in_conflict(stack, user)
    await user.resolve(session_id, conflict.conflict_id, kind=RESOLUTION_KIND_KEEP_BOTH)
    turn = await user.begin(session_id, "Both, as I said.")
    held = await stack.worker().claimed(await analysis_of(stack, turn))
    same = Conflict(first=conflict.second, second=conflict.first)
    await held.complete_step("conflict", Findings(conflicts=[same]))
    assert await user.conflicts(session_id) == []
    await held.complete("")
    assert not (await user.ended(held.turn_id)).outcome.findings.conflicts


async def test_specifications_are_listed_over_pages(stack: Stack) -> None:
    user, values = stack.user(), ["SQLite", "Postgres", "DuckDB"]
    session_id = await socratic(user)
    turn = await user.begin(session_id, "One of these.")
    held = await stack.worker().claimed(await analysis_of(stack, turn))
    found = Findings(specifications=[specified(value) for value in values])
    await held.complete_step("context", found)
    pages: list[list[str]] = []
    request = ListSpecificationsRequest(session_id=session_id, page_size=1)
    with user.acting() as replica:
        while request.page_token or not pages:
            page = await replica.specifications.ListSpecifications(request)
            pages.append([one.value for one in page.specifications])
            request.page_token = page.next_page_token
    assert pages == [[value] for value in values]


async def test_findings_outlive_the_live_store(stack: Stack) -> None:
    user = stack.user()
    session_id, conflict = await in_conflict(stack, user)
    resolved = await user.resolve(session_id, conflict.conflict_id, kind=RESOLUTION_KIND_KEEP_FIRST)
    await settled(stack, session_id)
    await stack.forget(session_id)
    assert [one.value for one in await user.specifications(session_id)] == ["SQLite"]
    assert await user.conflicts(session_id, include_closed=True) == [resolved]


async def test_a_branch_carries_what_was_found_in_its_messages_and_goes_its_own_way(
    stack: Stack,
) -> None:
    user = stack.user()
    session_id, conflict = await in_conflict(stack, user)
    later = await user.begin(session_id, "In Rust.")
    held = await stack.worker().claimed(await analysis_of(stack, later))
    await held.complete("", findings=Findings(specifications=[specified("Rust", "language")]))
    await stack.answer(later.turn_id, "Why?")
    await user.ended(later.turn_id)
    point = (await user.all_messages(session_id))[1]
    branch = await user.branch(session_id, point.message_id)
    values = [one.value for one in await user.specifications(branch.session_id)]
    assert values == ["SQLite", "Postgres"]
    await user.resolve(branch.session_id, conflict.conflict_id, kind=RESOLUTION_KIND_KEEP_FIRST)
    assert len(await user.conflicts(session_id)) == 1
    await user.delete(session_id)
    assert [one.value for one in await user.specifications(branch.session_id)] == ["SQLite"]


def test_only_conflicts_between_what_holds_are_open() -> None:
    first, second = Specification(specification_id="1"), Specification(specification_id="2")
    kept = Findings(
        specifications=[first, second], conflicts=[Conflict(first=first, second=second)]
    )
    assert open_conflicts(kept) == list(kept.conflicts)
    kept.specifications[1].withdrawn = True
    assert open_conflicts(kept) == []
    assert standing_specifications(kept) == [first]
