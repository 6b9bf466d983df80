"""Records that cannot be read, as those who run the backend see them."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest

from maieutic.v1 import admin_service_pb2 as pb
from services.session.adapters import keys
from services.session.ids import shard_of
from tests.session.stack import SOON, Stack, User, failure, reason
from tests.waiting import wait_until

SECRET = "What only its user should read"
KEPT_MS = 30 * 86_400_000


async def wrong_type(stack: Stack, key: str, *values: str) -> None:
    in_one_step = stack.redis.pipeline(transaction=True)
    in_one_step.delete(key)
    in_one_step.rpush(key, *(values or [SECRET]))
    await in_one_step.execute()


async def wrong_version(stack: Stack, key: str) -> None:
    await stack.redis.setrange(key, 0, "\x07")


async def wrong_checksum(stack: Stack, key: str) -> None:
    await stack.redis.setrange(key, 7, "\x00\x00")


async def no_record(stack: Stack, key: str) -> None:
    body = b"\xff\xff\xff"
    await stack.redis.set(key, b"\x01" + zlib.crc32(body).to_bytes(4, "big") + body)


Damaging = Callable[[Stack, str], Awaitable[None]]
Reading = Callable[[User, str, str], Awaitable[object]]


async def quarantined(stack: Stack, **fields: Any) -> pb.ListQuarantinedResponse:
    with stack.user().acting() as replica:
        response: pb.ListQuarantinedResponse = await replica.admin.ListQuarantined(
            pb.ListQuarantinedRequest(**fields)
        )
    return response


async def looked_at(
    stack: Stack, record_id: str, *, with_content: bool = False
) -> pb.GetQuarantinedResponse:
    request = pb.GetQuarantinedRequest(record_id=record_id, with_content=with_content)
    with stack.user().acting() as replica:
        response: pb.GetQuarantinedResponse = await replica.admin.GetQuarantined(request)
    return response


async def dropped(stack: Stack, record_id: str, request_id: str = "") -> None:
    request = pb.DropQuarantinedRequest(record_id=record_id, request_id=request_id or uuid4().hex)
    with stack.user().acting() as replica:
        await replica.admin.DropQuarantined(request)


async def archived_session(stack: Stack, user: User) -> str:
    """Return a session that the archive has, too, with what was said in it."""
    session_id = (await user.create(title=SECRET)).session_id
    turn = await user.begin(session_id, SECRET, "asked")
    await stack.answer(turn.turn_id, "Because.")
    await stack.archived(turn.turn_id)
    await user.add_note(session_id, SECRET)
    await wait_until(lambda: session_id in stack.archive.annotations, SOON)
    return session_id


@pytest.mark.parametrize(
    ("damaging", "damage"),
    [
        (wrong_type, pb.RECORD_DAMAGE_WRONG_TYPE),
        (wrong_version, pb.RECORD_DAMAGE_VERSION),
        (wrong_checksum, pb.RECORD_DAMAGE_CHECKSUM),
        (no_record, pb.RECORD_DAMAGE_UNPARSABLE),
    ],
)
async def test_a_damaged_session_is_put_aside_with_the_reason_and_comes_back_from_the_archive(
    any_stack: Stack, damaging: Damaging, damage: pb.RecordDamage.ValueType
) -> None:
    stack, user = any_stack, any_stack.user()
    session_id = await archived_session(stack, user)
    await damaging(stack, keys.record_key(session_id))
    assert (await user.get(session_id)).title == SECRET

    (record,) = (await quarantined(stack)).records
    assert (record.kind, record.damage) == (pb.RECORD_KIND_SESSION, damage)
    assert (record.session_id, record.turn_id) == (session_id, "")
    kept = record.expire_time.ToMilliseconds() - record.quarantine_time.ToMilliseconds()
    assert kept == KEPT_MS
    assert record.size > 0
    (aside,) = await stack.redis.keys(f"{{{shard_of(session_id)}}}:q:*")
    assert 0 < await stack.redis.pttl(aside) <= KEPT_MS


async def test_every_kind_of_record_is_told(stack: Stack) -> None:
    user = stack.user()
    session_id = await archived_session(stack, user)
    messages, _ = await user.messages(session_id)
    await user.update(session_id, "again", title="another")
    turn_id = messages[0].turn_id
    reads: tuple[tuple[str, Callable[[], Awaitable[object]], Any], ...] = (
        (
            keys.messages_key(session_id),
            lambda: user.branch(session_id, messages[0].message_id),
            pb.RECORD_KIND_MESSAGES,
        ),
        (
            keys.annotations_key(session_id),
            lambda: user.notes(session_id),
            pb.RECORD_KIND_ANNOTATIONS,
        ),
        (
            keys.operation_key(session_id, "again"),
            lambda: user.update(session_id, "again", title="another"),
            pb.RECORD_KIND_OPERATION,
        ),
        (
            keys.turn_key(turn_id),
            lambda: user.begin(session_id, SECRET, "asked"),
            pb.RECORD_KIND_TURN,
        ),
    )
    for key, read, kind in reads:
        await wrong_type(stack, key)
        await read()
        newest = (await quarantined(stack)).records[0]
        assert newest.kind == kind
        owner = newest.turn_id if kind == pb.RECORD_KIND_TURN else newest.session_id
        assert owner in (session_id, turn_id)


async def test_a_turn_whose_log_was_replaced_goes_on_with_another(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create()).session_id
    turn = await user.begin(session_id, SECRET)
    job = await stack.jobs.next(turn.turn_id)
    worker = stack.worker()
    held = await worker.claimed(job, "c1")
    log = keys.events_key(turn.turn_id)
    await stack.redis.delete(log)
    await stack.redis.set(log, SECRET)
    response = await held.record(["one"])
    assert list(response.missing_turn_ids) == [turn.turn_id]
    again = await worker.claimed(job, "c1")
    await again.say("one two")
    await again.complete("one two")
    assert (await user.frames(turn.turn_id))[-1].outcome.text == "one two"
    (record,) = (await quarantined(stack)).records
    assert (record.kind, record.turn_id) == (pb.RECORD_KIND_EVENTS, turn.turn_id)
    assert not record.session_id


async def test_records_are_listed_in_pages_the_latest_first(stack: Stack) -> None:
    user = stack.user()
    made = []
    for _ in range(5):
        made.append((await user.create()).session_id)
        await wait_until(lambda: made[-1] in stack.archive.sessions, SOON)
        await wrong_version(stack, keys.record_key(made[-1]))
        await user.get(made[-1])
    (lost,) = await stack.redis.keys(f"*:q:*:{made[3]}:rec:*")
    await stack.redis.delete(lost)
    found, token = [], ""
    while True:
        page = await quarantined(stack, page_size=2, page_token=token)
        found += [record.session_id for record in page.records]
        token = page.next_page_token
        if not token:
            break
    assert found == [made[4], made[2], made[1], made[0]]
    error = await failure(quarantined(stack, page_token="7:made-up"))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_content_is_shown_only_to_whoever_asks_for_it(stack: Stack) -> None:
    user = stack.user()
    session_id = await archived_session(stack, user)
    before = await stack.redis.get(keys.record_key(session_id))
    assert isinstance(before, bytes)
    assert SECRET.encode() in before
    damaged = b"\x07" + before[1:]
    await stack.redis.set(keys.record_key(session_id), damaged)
    await user.get(session_id)
    record_id = (await quarantined(stack)).records[0].record_id

    shown = await looked_at(stack, record_id)
    assert (shown.value_type, shown.content) == ("string", b"")
    assert shown.first_bytes == damaged[:8]
    assert SECRET.encode() not in shown.SerializeToString()
    whole = await looked_at(stack, record_id, with_content=True)
    assert whole.content == damaged


async def test_a_record_of_another_type_is_shown_as_it_would_be_dumped(stack: Stack) -> None:
    user = stack.user()
    session_id = await archived_session(stack, user)
    await wrong_type(stack, keys.record_key(session_id))
    await user.get(session_id)
    record_id = (await quarantined(stack)).records[0].record_id
    shown = await looked_at(stack, record_id)
    assert shown.value_type == "list"
    assert SECRET.encode() not in shown.SerializeToString()
    whole = await looked_at(stack, record_id, with_content=True)
    assert SECRET.encode() in whole.content


async def test_a_huge_value_of_another_type_is_not_loaded(stack: Stack) -> None:
    user = stack.user()
    session_id = await archived_session(stack, user)
    await wrong_type(stack, keys.record_key(session_id), *["x" * 1024 * 1024] * 9)
    await user.get(session_id)
    (record,) = (await quarantined(stack)).records
    assert record.size > 9 * 1024 * 1024
    shown = await looked_at(stack, record.record_id, with_content=True)
    assert (shown.value_type, shown.first_bytes, shown.content) == ("list", b"", b"")
    await dropped(stack, record.record_id)


async def test_a_dropped_record_is_gone_and_dropping_again_succeeds(
    stack: Stack, caplog: pytest.LogCaptureFixture
) -> None:
    user = stack.user()
    for _ in range(2):
        session_id = await archived_session(stack, user)
        await wrong_version(stack, keys.record_key(session_id))
        await user.get(session_id)
    first, second = (record.record_id for record in (await quarantined(stack)).records)
    await dropped(stack, first, "r1")
    await dropped(stack, first, "r1")
    await dropped(stack, first)
    assert first in caplog.text
    error = await failure(dropped(stack, second, "r1"))
    assert (error.code(), reason(error)) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_TAKEN")
    assert [record.record_id for record in (await quarantined(stack)).records] == [second]
    assert len(await stack.redis.keys("*:q:*:rec:*")) == 1
    error = await failure(looked_at(stack, first))
    assert error.code() == grpc.StatusCode.NOT_FOUND


async def test_nothing_but_what_is_in_quarantine_can_be_read_or_dropped(stack: Stack) -> None:
    user = stack.user()
    session_id = (await user.create(title=SECRET)).session_id
    shard = shard_of(session_id)
    await stack.redis.set(f"{{{shard}}}:q:checksum:s:{session_id}:rec:1", SECRET)
    for name in (f"checksum:s:{session_id}:rec:1", f"s:{session_id}:rec:1"):
        error = await failure(looked_at(stack, f"{shard}:{name}", with_content=True))
        assert error.code() == grpc.StatusCode.NOT_FOUND
    await dropped(stack, f"{shard}:s:{session_id}:rec:1")
    assert (await user.get(session_id)).title == SECRET


async def test_a_record_that_has_expired_is_not_listed_any_more(stack: Stack) -> None:
    user = stack.user()
    session_id = await archived_session(stack, user)
    await wrong_version(stack, keys.record_key(session_id))
    await user.get(session_id)
    (record,) = (await quarantined(stack)).records
    (aside,) = await stack.redis.keys("*:q:*:rec:*")
    await stack.redis.delete(aside)
    assert not (await quarantined(stack)).records
    assert (await failure(looked_at(stack, record.record_id))).code() == grpc.StatusCode.NOT_FOUND


async def test_workers_have_no_business_here(stack: Stack) -> None:
    admin = stack.first.worker_admin
    for call in (
        admin.ListQuarantined(pb.ListQuarantinedRequest()),
        admin.GetQuarantined(pb.GetQuarantinedRequest(record_id="1:a:1")),
        admin.DropQuarantined(pb.DropQuarantinedRequest(record_id="1:a:1", request_id="r")),
    ):
        error = await failure(call)
        assert (error.code(), reason(error)) == (
            grpc.StatusCode.PERMISSION_DENIED,
            "SERVICES_ONLY",
        )
