"""The same request id and request: the first outcome. The same id and another request: refused."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from maieutic.v1 import (
    session_service_pb2 as sessions,
    specification_service_pb2 as specifications,
    turn_service_pb2 as turns,
)
from maieutic.v1.specification_pb2 import (
    RESOLUTION_KIND_KEEP_BOTH,
    RESOLUTION_KIND_KEEP_FIRST,
    Conflict,
    Specification,
)
from maieutic.v1.turn_service_pb2 import Findings
from services.runtime.first_outcome import FIRST_OUTCOME
from services.session.adapters import keys
from tests.backends.redis import RedisServer
from tests.session.stack import SOON, Stack, User, failure, reason, session_stack
from tests.waiting import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS: Mapping[str, Any] = MappingProxyType(
    {
        method.name: GetMessageClass(method.input_type)
        for file in (sessions, specifications, turns)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if "request_id" in method.input_type.fields_by_name
    }
)
"""Every call that changes something, with its request; `GetOrCreateSession` has no request id."""
STREAMS = frozenset({"StreamTurn", "NextQuestion", "Analyze", "GenerateCode"})
OF_ONE_SESSION = frozenset(METHODS) - {"CreateSession", "BranchSession", "BeginTurn"} - STREAMS
"""Their ids are of one session. What the others make has its own id, made of the request's."""
SCOPE = frozenset({"request_id", "session_id"})


@dataclass(kw_only=True)
class Place:
    """A session with things in it, and somebody whose it is."""

    stack: Stack
    user: User
    session_id: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    """For each field of a request a value, and another one that is as good."""

    async def call(self, request: Message, metadata: Sequence[tuple[str, str]] = ()) -> Any:
        """Send the request; of a stream the first frame's turn is the answer."""
        name = type(request).__name__.removesuffix("Request")
        with self.user.acting() as replica:
            stubs: tuple[Any, ...] = (replica.turns, replica.specifications, replica.sessions)
            stub = next(stub for stub in stubs if hasattr(stub, name))
            call = getattr(stub, name)(request, metadata=metadata)
        if name not in STREAMS:
            return await call
        accepted = (await call.read()).frame.accepted
        call.cancel()
        return turns.BeginTurnResponse(turn=accepted.turn)

    def request(self, method: str, request_id: str, **values: Any) -> Message:
        made: Message = METHODS[method](request_id=request_id)
        names = made.DESCRIPTOR.fields_by_name
        # What a test asks for comes last: of several choices the last one counts.
        usual = {name: value for name, value in self.values.items() if name not in values}
        for name, value in {**usual, **values}.items():
            if name in names:
                made.MergeFrom(METHODS[method](**{name: value}))
        return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(valkey_server: RedisServer) -> AsyncIterator[Stack]:
    async with session_stack(valkey_server.url, lease=30.0) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def place(shared: Stack) -> Place:
    """A fresh session with a question and an answer, notes, bookmarks, and a turn that runs."""
    user = shared.user()
    session_id = (await user.create(title="Stars")).session_id
    asked = await user.begin(session_id, "Why?")
    conflicts = await _answered_with_conflicts(shared, asked.turn_id)
    messages = [m.message_id for m in await user.all_messages(session_id)]
    notes = [(await user.add_note(session_id, text)).note_id for text in ("one", "two")]
    marks = [(await user.add_bookmark(session_id, m)).bookmark_id for m in messages]
    place = Place(stack=shared, user=user, session_id=session_id)
    pairs = {
        "title": ("Suns", "Moons"),
        "mode": (sessions.SESSION_MODE_DIRECT, sessions.SESSION_MODE_SOCRATIC),
        "metadata": ({"a": "b"}, {"a": "c"}),
        "document_ids": (["d" * 20], ["e" * 20]),
        "update_mask": ({"paths": ["title"]}, {"paths": ["mode"]}),
        "expected_revision": (0, 1),
        "text": ("Really?", "Truly?"),
        "collection": ("brand-x", "brand-y"),
        "instructions": ("In Python.", "In Rust."),
        "busy_policy": (turns.BUSY_POLICY_ENQUEUE, turns.BUSY_POLICY_INTERRUPT),
        "time_budget": ({"seconds": 60}, {"seconds": 61}),
        "agent": ("reviewer", "direct"),
        "budget": ({"tokens": 10}, {"tokens": 11}),
        "note_id": tuple(notes),
        "bookmark_id": tuple(marks),
        "message_id": tuple(messages),
        "label": ("here", "there"),
        "conflict_id": tuple(conflicts),
        "kind": (RESOLUTION_KIND_KEEP_FIRST, RESOLUTION_KIND_KEEP_BOTH),
        "value": ("this", "that"),
    }
    place.values = {"session_id": session_id} | {name: pair[0] for name, pair in pairs.items()}
    place.others = {name: pair[1] for name, pair in pairs.items()} | {"turn_id": asked.turn_id}
    return place


async def _answered_with_conflicts(stack: Stack, turn_id: str) -> list[str]:
    """Answer the turn, with two conflicts that were found in it."""
    held = await stack.claim(turn_id)
    said = [Specification(category="c", key="k", value=value) for value in "abc"]
    step = await held.complete_step("context", Findings(specifications=said))
    one, *others = step.findings.specifications
    seen = Findings(conflicts=[Conflict(first=one, second=other) for other in others])
    found = (await held.complete_step("conflict", seen)).findings.conflicts
    await held.complete("Because.")
    await stack.archived(turn_id)
    return [conflict.conflict_id for conflict in found]


async def _with_turns(place: Place) -> None:
    """Let a turn run and another one wait, for what is asked of turns."""
    enqueue = turns.BUSY_POLICY_ENQUEUE
    begun = [await place.user.begin(place.session_id, policy=enqueue) for _ in range(2)]
    place.values["turn_id"], place.others["turn_id"] = (turn.turn_id for turn in begun)


def _fields(method: str) -> list[str]:
    return [f.name for f in METHODS[method].DESCRIPTOR.fields if f.name not in SCOPE]


async def _refused(
    place: Place, request: Message, metadata: Sequence[tuple[str, str]] = ()
) -> None:
    error = await failure(place.call(request, metadata))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS, (request, error)
    assert reason(error) == "REQUEST_ID_TAKEN"


def _same(answer: Any) -> Any:
    """What of an answer does not change by itself."""
    if hasattr(answer, "turn"):
        return answer.turn.turn_id, answer.turn.text
    if hasattr(answer, "session"):
        answer.session.ClearField("expire_time")
    return answer


@pytest.mark.parametrize("method", sorted(METHODS))
async def test_the_same_request_is_carried_out_once_and_another_one_is_refused(
    place: Place, method: str
) -> None:
    if "Cancel" in method:
        await _with_turns(place)
    request = place.request(method, uuid4().hex)
    first = await place.call(request)
    again = await place.call(request)
    if method != "DeleteSession":
        assert _same(first) == _same(again)
    for name in _fields(method):
        other = {name: place.others[name]}
        await _refused(place, place.request(method, request.request_id, **other))  # type: ignore[attr-defined] # it has one


@pytest.mark.parametrize(
    ("method", "field_name"),
    [("CreateSession", "title"), ("UpdateSession", "title"), ("Analyze", "text")],
)
async def test_a_call_for_the_first_outcome_alone_is_answered_with_it_and_does_nothing_else(
    place: Place, method: str, field_name: str
) -> None:
    """So the gateway asks where what the request refers to has gone."""
    named = {"update_mask": {"paths": ["document_ids"]}}
    request_id = uuid4().hex
    request = place.request(method, request_id, **named)
    sessions_before = await place.user.all_sessions(9)
    error = await failure(place.call(request, FIRST_OUTCOME))
    assert reason(error) == "NOT_CARRIED_OUT"
    assert await place.user.all_sessions(9) == sessions_before
    first = await place.call(request)
    assert _same(await place.call(request, FIRST_OUTCOME)) == _same(first)
    other = {**named, field_name: place.others[field_name]}
    await _refused(place, place.request(method, request_id, **other), FIRST_OUTCOME)


@pytest.mark.parametrize("method", sorted(OF_ONE_SESSION))
async def test_the_id_of_another_kind_of_request_is_refused(place: Place, method: str) -> None:
    if "Cancel" in method:
        await _with_turns(place)
    request_id = uuid4().hex
    first = "TouchSession" if method != "TouchSession" else "EndSession"
    await place.call(place.request(first, request_id))
    before = await place.user.get(place.session_id)
    await _refused(place, place.request(method, request_id))
    assert (await place.user.get(place.session_id)).revision == before.revision


@pytest.mark.parametrize("method", ["CreateSession", "BranchSession", "UpdateSession", "AddNote"])
async def test_the_id_is_known_after_the_session_has_left_the_live_store(
    place: Place, method: str
) -> None:
    request_id = uuid4().hex
    made = await place.call(place.request(method, request_id))
    session_id = made.session.session_id

    async def settled() -> bool:
        return (await place.user.get(session_id)).HasField("expire_time")

    await wait_until(settled, SOON)
    await place.stack.forget(session_id)
    name = _fields(method)[0]
    await _refused(place, place.request(method, request_id, **{name: place.others[name]}))
    again = await place.call(place.request(method, request_id))
    assert again.session.session_id == session_id


async def test_an_id_whose_branch_was_not_made_yet_is_kept_for_its_request(place: Place) -> None:
    """A first try that dies in the middle leaves no room for another request."""
    request = place.request("BranchSession", uuid4().hex)
    place.stack.archive.full = True
    assert (await failure(place.call(request))).code() == grpc.StatusCode.UNAVAILABLE
    place.stack.archive.full = False
    await _refused(place, place.request("BranchSession", request.request_id, title="Moons"))  # type: ignore[attr-defined] # it has one
    made = await place.call(request)
    assert made.session.title == "Suns"


async def test_a_marker_lasts_for_a_day(place: Place) -> None:
    request_id = uuid4().hex
    await place.call(place.request("TouchSession", request_id))
    left = await place.stack.redis.pttl(keys.operation_key(place.session_id, request_id))
    assert 86_300_000 < left <= 86_400_000
