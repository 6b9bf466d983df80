"""How large a message and an answer may be, and that whatever may be stored can also travel."""

from collections.abc import Iterator

import grpc
import pytest

from maieutic.archive.v1.archive_service_pb2 import GetSessionSnapshotResponse
from maieutic.bus.v1.bus_pb2 import RunTurn, SessionAnnotations, SessionChanged, TurnFinished
from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1.message_pb2 import Citation, Message
from maieutic.v1.session_service_pb2 import Session
from maieutic.v1.specification_pb2 import Specification
from maieutic.v1.summary_pb2 import Summary
from maieutic.v1.turn_service_pb2 import (
    BUSY_POLICY_ENQUEUE,
    TURN_STATE_COMPLETED,
    TURN_STATE_FAILED,
    CodeManifest,
    Findings,
)
from services.persistence.settings import PersistenceSettings
from services.runtime.channel import ChannelOptions
from services.runtime.server import MEBIBYTE
from services.runtime.settings import BadSettings, load
from services.session.findings import MOST_BYTES, MOST_QUESTIONS, MOST_TEXT_CHARACTERS
from services.session.limits import HIGHEST
from services.session.model import CLAIM_BYTES, WINDOW_BYTES, WINDOW_MESSAGES
from services.session.settings import SessionSettings
from services.session.summaries import MOST_CHARACTERS
from tests.session.stack import Held, Stack, bad_field, failure, session_stack

BROKER_BYTES = 16 * MEBIBYTE
"""RabbitMQ 4 takes no larger message by default; earlier ones take more."""
ID = "i" * 128
FACE = "\N{GRINNING FACE}"
"""A character of four bytes."""
SLACK = 8 * 1024
"""For ids, times, trace context and the names of fields."""


@pytest.mark.parametrize("name", HIGHEST)
def test_a_limit_that_would_not_travel_cannot_be_set(name: str) -> None:
    environ = {"MAIEUTIC_ID_KEY": "k", f"MAIEUTIC_{name.upper()}": str(HIGHEST[name])}
    assert getattr(load(SessionSettings, environ=environ), name) == HIGHEST[name]
    for wrong in (HIGHEST[name] + 1, 0):
        environ[f"MAIEUTIC_{name.upper()}"] = str(wrong)
        with pytest.raises(BadSettings, match=f"MAIEUTIC_{name.upper()}: must be 1 to"):
            load(SessionSettings, environ=environ)


@pytest.mark.parametrize("lane", ["interactive", "analysis", "long"])
def test_a_time_budget_that_no_request_could_ask_for_cannot_be_set(lane: str) -> None:
    variable = f"MAIEUTIC_TIME_BUDGET_{lane.upper()}"
    environ = {"MAIEUTIC_ID_KEY": "k", variable: "3600"}
    assert getattr(load(SessionSettings, environ=environ).time_budget, lane) == 3600
    for wrong in ("3601", "0"):
        environ[variable] = wrong
        with pytest.raises(BadSettings, match=f"{variable}: must be 1 to 3600, is {wrong}"):
            load(SessionSettings, environ=environ)


async def test_a_message_of_exactly_the_limit_is_taken_and_one_byte_more_is_refused(
    store_url: str,
) -> None:
    async with session_stack(store_url, message_bytes=10) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        error = await failure(user.begin(session_id, "é" * 5 + "a"))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert bad_field(error) == "text"
        assert "has 11 bytes, the limit message_bytes is 10" in (error.details() or "")
        assert not await user.all_messages(session_id)
        turn = await user.begin(session_id, "é" * 5)
        await stack.answer(turn.turn_id, "Because.")


async def _complete(stack: Stack, held: Held, text: str, quote: str) -> work.CompleteTurnResponse:
    response: work.CompleteTurnResponse = await stack.first.work.CompleteTurn(
        work.CompleteTurnRequest(
            turn_id=held.turn_id,
            fence=held.claim.fence,
            claim_id=held.claim_id,
            last_seq=held.seq,
            text=text,
            citations=[Citation(quote=quote)],
        )
    )
    return response


async def test_an_answer_of_exactly_the_limit_ends_the_turn_and_a_larger_one_fails_it(
    store_url: str,
) -> None:
    most = 10 + Citation(quote="q" * 20).ByteSize()
    async with session_stack(store_url, answer_bytes=most) as stack:
        user = stack.user()
        session_id = (await user.create()).session_id
        begun = [await user.begin(session_id, policy=BUSY_POLICY_ENQUEUE) for _ in range(2)]
        held = await stack.claim(begun[0].turn_id)
        assert held.claim.answer_bytes == most
        for _ in range(2):  # as after a lost reply
            response = await _complete(stack, held, "é" * 5 + "a", "q" * 20)
            outcome = response.finished.outcome
            assert response.status == work.WRITE_STATUS_APPLIED
            assert (outcome.state, outcome.reason) == (TURN_STATE_FAILED, "ANSWER_TOO_LARGE")
            assert f"has {most + 1} bytes, the limit answer_bytes is {most}" in outcome.explanation
            assert not outcome.text
        # The line goes on, and what fits is stored.
        response = await _complete(stack, await stack.claim(begun[1].turn_id), "é" * 5, "q" * 20)
        assert response.finished.outcome.state == TURN_STATE_COMPLETED


async def test_the_largest_messages_and_answers_are_claimed_listed_and_brought_back(
    store_url: str,
) -> None:
    """Five turns of the highest limits are 3 MiB: more than a claim or a page may have."""
    question, answer = "q" * HIGHEST["message_bytes"], "a" * HIGHEST["answer_bytes"]
    async with session_stack(
        store_url, lease=30.0, message_bytes=len(question), answer_bytes=len(answer)
    ) as stack:
        user = stack.user()
        session_id, turn_id = (await user.create()).session_id, ""
        for number in range(5):
            turn_id = (await user.begin(session_id, question)).turn_id
            held = await stack.claim(turn_id)
            window = held.claim.window
            assert sum(message.ByteSize() for message in window) <= WINDOW_BYTES
            assert window[-1].text == question
            await held.record([answer])
            await held.complete(answer)
            await stack.archived(turn_id)
            if number == 3:
                await stack.forget(session_id)
        assert [m.text for m in await user.all_messages(session_id)] == [question, answer] * 5
        assert (await user.frames(turn_id))[-1].outcome.text == answer
        assert (await user.turn(turn_id)).outcome.text == answer


def _largest_session() -> Session:
    return Session(
        session_id=ID,
        title=FACE * 200,
        metadata={"k": "v" * HIGHEST["metadata_bytes"]},
        document_ids=["d" * 64] * 100,
    )


def _question() -> Message:
    return Message(message_id=ID, session_id=ID, text="q" * HIGHEST["message_bytes"])


def _answer() -> Message:
    return Message(message_id=ID, session_id=ID, text="a" * HIGHEST["answer_bytes"])


def _job() -> RunTurn:
    return RunTurn(turn_id=ID, session=_largest_session(), message=_question())


def _finished() -> TurnFinished:
    finished = TurnFinished(job=_job(), answer=_answer(), session=_largest_session())
    finished.job.ClearField("session")
    finished.outcome.text = finished.answer.text
    return finished


def _findings() -> Findings:
    """All that a session may know, in a script of four bytes to a character."""
    found = Findings(summary=Summary(text=FACE * MOST_CHARACTERS))
    for _ in range(MOST_QUESTIONS):
        found.questions.add(question_id=ID, message_id=ID, text=FACE * MOST_TEXT_CHARACTERS)
    rest = MOST_BYTES // Specification(value=FACE * MOST_TEXT_CHARACTERS).ByteSize()
    for _ in range(rest):
        found.specifications.add(value=FACE * MOST_TEXT_CHARACTERS)
    return found


def _claim() -> work.TurnClaim:
    """What a worker is given besides messages: of a code turn, whose plan comes twice."""
    plan = CodeManifest(assumptions=[FACE * 500] * 60)
    for _ in range(40):
        plan.files.add(path="x" * 255, purpose=FACE * 500, interface=FACE * 1000)
    claim = work.TurnClaim(session=_largest_session(), findings=_findings())
    claim.findings.manifest.CopyFrom(plan)
    claim.steps.add().findings.manifest.CopyFrom(plan)
    return claim


def _notes() -> SessionAnnotations:
    kept = SessionAnnotations(findings=_findings())
    for _ in range(HIGHEST["notes_per_session"]):
        kept.notes.add(note_id=ID, text=FACE * 2000)
    for _ in range(HIGHEST["bookmarks_per_session"]):
        kept.bookmarks.add(bookmark_id=ID, message_id=ID, label=FACE * 200)
    return kept


def _snapshot() -> GetSessionSnapshotResponse:
    """A full window, a full line, and notes. Before each answer its question was said."""
    half = WINDOW_MESSAGES // 2
    return GetSessionSnapshotResponse(
        session=_largest_session(),
        window=[_question(), _answer()] * half,
        unfinished=[_job() for _ in range(HIGHEST["waiting_turns"] + 1)],
        annotations=_notes(),
    )


def _travelling() -> Iterator[tuple[str, int, int]]:
    """Yield what travels in one message, its largest size, and the room that there is."""
    call = ChannelOptions().max_message_bytes
    archive = SessionSettings(id_key="k").channel.max_message_bytes
    assert archive == PersistenceSettings().server.max_message_bytes
    frames = work.RecordTurnEventsRequest()
    frames.events.add(turn_id=ID).frames.add().delta.text = _answer().text
    yield "job", _job().ByteSize(), min(call, BROKER_BYTES)
    yield "outcome", _finished().ByteSize(), min(call, BROKER_BYTES)
    yield "claim", max(CLAIM_BYTES, _claim().ByteSize() + _answer().ByteSize()), call
    yield "frames of a turn beside others", MEBIBYTE + frames.ByteSize(), call
    yield "two messages of one position", 2 * _answer().ByteSize(), call
    yield "facts of a session", SessionChanged(annotations=_notes()).ByteSize(), BROKER_BYTES
    yield "snapshot", _snapshot().ByteSize(), archive


@pytest.mark.parametrize(("what", "size", "room"), list(_travelling()), ids=str)
def test_what_travels_fits_its_message_at_the_highest_limits(
    what: str, size: int, room: int
) -> None:
    assert size + SLACK < room, what
