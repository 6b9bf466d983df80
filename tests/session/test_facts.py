"""Which facts go to the archive, and when: of the states of a session only those that count."""

from uuid import uuid4

from maieutic.bus.v1.bus_pb2 import (
    SessionAnnotations,
    SessionChanged,
    SessionDeleted,
    TurnAccepted,
)
from maieutic.v1.session_service_pb2 import Session
from services.session.adapters import keys
from services.session.facts import OutgoingFact, condensed
from services.session.ids import shard_of
from tests.session.stack import SOON, session_stack
from tests.waiting import wait_until


def state(session_id: str, title: str, *, annotated: bool = False) -> tuple[str, bytes]:
    notes = SessionAnnotations(revision=1) if annotated else None
    session = Session(session_id=session_id, title=title)
    return "session.changed", SessionChanged(session=session, annotations=notes).SerializeToString()


def stream(*facts: tuple[str, bytes]) -> list[tuple[bytes, str, bytes]]:
    return [(b"%d-0" % number, *fact) for number, fact in enumerate(facts)]


def titles(facts: list[OutgoingFact]) -> list[str]:
    return [
        SessionChanged.FromString(fact.body).session.title
        if fact.key == "session.changed"
        else fact.key
        for fact in facts
    ]


ACCEPTED = "turn.accepted", TurnAccepted().SerializeToString()
DELETED = "session.deleted", SessionDeleted().SerializeToString()


def test_of_the_states_of_a_session_the_last_is_told_and_stands_for_the_others() -> None:
    facts = condensed(stream(state("a", "1"), state("a", "2"), state("a", "3")))

    assert titles(facts) == ["3"]
    assert facts[0].entries == [b"2-0", b"1-0", b"0-0"]


def test_the_states_of_other_sessions_stay() -> None:
    facts = condensed(stream(state("a", "1"), state("b", "1"), state("a", "2"), state("b", "2")))

    assert titles(facts) == ["2", "2"]
    assert [sorted(fact.entries) for fact in facts] == [[b"0-0", b"2-0"], [b"1-0", b"3-0"]]


def test_what_is_no_state_keeps_its_place_between_the_states() -> None:
    told = stream(state("a", "1"), state("a", "2"), ACCEPTED, state("a", "3"), DELETED)

    assert titles(condensed(told)) == ["2", "turn.accepted", "3", "session.deleted"]


def test_notes_are_not_left_out_for_a_state_without_them() -> None:
    told = stream(
        state("a", "1"),
        state("a", "2", annotated=True),
        state("a", "3", annotated=True),
        state("a", "4"),
        state("a", "5"),
    )

    facts = condensed(told)

    assert titles(facts) == ["3", "5"]
    assert sorted(entry for fact in facts for entry in fact.entries) == [e for e, _, _ in told]


async def test_a_session_that_changes_often_is_told_now_and_then(store_url: str) -> None:
    async with session_stack(store_url, gather=60.0, sweep_interval=60.0) as stack:
        user = stack.user()
        session_id = (await user.create(title="new")).session_id
        await wait_until(lambda: session_id in stack.archive.sessions, SOON)
        for number in range(10):
            await user.update(session_id, title=str(number))
        out = keys.out_key(shard_of(session_id))
        assert await stack.redis.xlen(out) == 10

        await user.begin(session_id)  # a turn does not wait, and what was before it goes first

        await wait_until(lambda: len(stack.archiver.facts) == 3, SOON)
        assert [key for key, _ in stack.archiver.facts] == [
            *("session.changed", "session.changed", "turn.accepted")
        ]
        assert SessionChanged.FromString(stack.archiver.facts[1][1]).session.title == "9"

        async def told() -> bool:
            return not await stack.redis.xlen(out)

        await wait_until(told, SOON)


async def test_the_last_change_of_many_is_told_without_another_one(store_url: str) -> None:
    async with session_stack(store_url, sweep_interval=60.0) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        for _ in range(30):
            last = uuid4().hex
            await user.update(session_id, title=last)

        await wait_until(lambda: stack.archive.sessions[session_id].session.title == last, SOON)
