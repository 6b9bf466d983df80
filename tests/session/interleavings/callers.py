"""Callers, a worker and the archive: each call is made until it has an answer."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from redis.asyncio import Redis

from maieutic.session.v1 import turn_work_service_pb2 as work
from maieutic.v1 import session_service_pb2 as pb
from maieutic.v1.message_pb2 import Message
from maieutic.v1.turn_service_pb2 import Turn
from services.session.adapters import keys
from services.session.ids import shard_of
from tests.session.interleavings.expected import ALWAYS_IN_WINDOW, View
from tests.session.interleavings.serial import Answered, Call
from tests.session.stack import Held, Replica, Stack, User, reason

TRIES = 30
ONE_PAGE = 200
Messages: TypeAlias = list[tuple[str, str]]
_LEAVE = """
local left = redis.call('PTTL', KEYS[1])
if left > 0 and left <= tonumber(ARGV[1]) then
    for number = 1, tonumber(ARGV[2]) do redis.call('PEXPIRE', KEYS[number], 1) end
end
"""
"""Lets the record expire now, and its parts with it or not, if it may and is no tombstone."""
IDLE_MS = 1_800_000


@dataclass
class _Hold:
    """A worker's claim. A worker writes one thing after the other for a turn."""

    claim: work.TurnClaim = field(default_factory=lambda: work.TurnClaim(fence=1))
    seq: int = 0
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Callers:
    """Everybody who talks to the service about one user's sessions."""

    def __init__(self, stack: Stack, server_of: Callable[[str], Redis], user: User) -> None:
        self.stack = stack
        self._server_of = server_of
        self.user = user
        self.revisions: dict[str, list[int]] = {}
        """Those that were seen of each session, in their order."""
        self._least: dict[str, int] = {}
        self._seen: dict[tuple[str, int], pb.Session] = {}
        self._ends: dict[str, Any] = {}
        self._holds: dict[str, _Hold] = {}

    async def at_once(self, calls: list[Call]) -> list[Answered]:
        """Make the calls at the same time, at all replicas in turn."""
        self._least = {known: max(seen) for known, seen in self.revisions.items()}
        answers = await asyncio.gather(
            *(self.answer(call, number) for number, call in enumerate(calls))
        )
        return [Answered(call, answer) for call, answer in zip(calls, answers, strict=True)]

    async def answer(self, call: Call, first_replica: int = 0) -> Any:
        """Return the answer, or why the call was refused; asks again until there is one of both."""
        replicas = self.stack.replicas
        for number in range(first_replica, first_replica + TRIES):
            replica = replicas[number % len(replicas)]
            try:
                return await getattr(self, f"_{call.name}")(replica, *call.args)
            except grpc.aio.AioRpcError as error:
                if not _passes(error):
                    return "refused", _refusal(call, error)
        message = f"no answer to {call}"
        raise AssertionError(message)

    def _view(self, session: pb.Session, *, archived: bool = False) -> View:
        """Return what the session shows; a revision shows the same whenever it is seen."""
        seen = pb.Session()
        seen.CopyFrom(session)
        seen.ClearField("expire_time")
        session_id, revision = session.session_id, session.revision
        known = self._seen.setdefault((session_id, revision), seen)
        assert seen == known, f"revision {revision} is two things: {seen} and {known}"
        if not archived:
            assert revision >= self._least.get(session_id, 0), f"older than was seen: {seen}"
        if revision not in (revisions := self.revisions.setdefault(session_id, [])):
            revisions.append(revision)
            revisions.sort()
        return View(
            session_id=session_id,
            title=session.title,
            mode=session.mode,
            metadata=tuple(sorted(session.metadata.items())),
            documents=tuple(session.document_ids),
            parent=(session.parent_session_id, session.parent_message_id),
            ended=session.HasField("end_time"),
            active=session.active_turn_id,
            message_count=session.message_count,
        )

    async def _create(self, replica: Replica, request_id: str, title: str) -> View:
        return self._view(await self.user.at(replica).create(request_id, title=title))

    async def _get_or_create(self, replica: Replica, documents: tuple[str, ...]) -> View:
        return self._view((await self.user.at(replica).get_or_create(*documents)).session)

    async def _get(self, replica: Replica, session_id: str) -> View:
        return self._view(await self.user.at(replica).get(session_id))

    async def _all_sessions(self, replica: Replica, order: Any, ended: bool) -> frozenset[View]:  # noqa: FBT001
        user, token, found = self.user.at(replica), "", []
        state = pb.SESSION_STATE_ENDED if ended else pb.SESSION_STATE_UNSPECIFIED
        while True:
            page, token = await user.page(
                2, token, order=order, filter=pb.SessionFilter(state=state)
            )
            found += page
            if not token:
                break
        by = "last_used_time" if order == pb.SESSION_ORDER_LAST_USED_FIRST else "create_time"
        times = [getattr(session, by).ToMilliseconds() for session in found]
        assert times == sorted(times, reverse=order != pb.SESSION_ORDER_OLDEST_FIRST)
        assert len({session.session_id for session in found}) == len(found)
        return frozenset(self._view(session, archived=True) for session in found)

    async def _update(
        self,
        replica: Replica,
        session_id: str,
        request_id: str,
        expected: int,
        fields: tuple[tuple[str, Any], ...],
    ) -> View:
        named: dict[str, Any] = dict(fields)
        if "metadata" in named:
            named["metadata"] = dict(named["metadata"])
        if "documents" in named:
            named["document_ids"] = named.pop("documents")
        user = self.user.at(replica)
        return self._view(await user.update(session_id, request_id, expected=expected, **named))

    async def _end(self, replica: Replica, session_id: str) -> View:
        return self._view(await self.user.at(replica).end(session_id))

    async def _touch(self, replica: Replica, session_id: str) -> View:
        return self._view(await self.user.at(replica).touch(session_id))

    async def _delete(self, replica: Replica, session_id: str) -> None:
        await self.user.at(replica).delete(session_id)

    async def _branch(
        self, replica: Replica, session_id: str, request_id: str, message_id: str
    ) -> View:
        return self._view(await self.user.at(replica).branch(session_id, message_id, request_id))

    async def _messages(self, replica: Replica, session_id: str, order: Any) -> Messages:
        found, token = await self.user.at(replica).messages(session_id, ONE_PAGE, order=order)
        assert not token
        return _in_order(found if order == pb.MESSAGE_ORDER_OLDEST_FIRST else found[::-1])

    async def _all_messages(self, replica: Replica, session_id: str, size: int) -> Messages:
        return _in_order(await self.user.at(replica).all_messages(session_id, size))

    async def _add_note(self, replica: Replica, session_id: str, request_id: str, text: str) -> str:
        return (await self.user.at(replica).add_note(session_id, text, request_id)).note_id

    async def _delete_note(self, replica: Replica, session_id: str, note_id: str) -> None:
        await self.user.at(replica).delete_note(session_id, note_id)

    async def _notes(self, replica: Replica, session_id: str) -> list[tuple[str, str]]:
        notes, _ = await self.user.at(replica).notes(session_id)
        return sorted((note.note_id, note.text) for note in notes)

    async def _add_bookmark(
        self, replica: Replica, session_id: str, request_id: str, message_id: str
    ) -> str:
        user = self.user.at(replica)
        # The label tells one bookmark from another of the same message.
        made = await user.add_bookmark(session_id, message_id, request_id, request_id)
        return made.bookmark_id

    async def _delete_bookmark(self, replica: Replica, session_id: str, bookmark_id: str) -> None:
        await self.user.at(replica).delete_bookmark(session_id, bookmark_id)

    async def _bookmarks(
        self, replica: Replica, session_id: str
    ) -> list[tuple[str, tuple[str, str]]]:
        found, _ = await self.user.at(replica).bookmarks(session_id)
        return sorted((kept.bookmark_id, (kept.message_id, kept.label)) for kept in found)

    async def _begin(
        self, replica: Replica, session_id: str, request_id: str, text: str, policy: Any
    ) -> str:
        user = self.user.at(replica)
        return (await user.begin(session_id, text, request_id, policy=policy)).turn_id

    async def _cancel(self, replica: Replica, _session_id: str, turn_id: str) -> str:
        return (await self.user.at(replica).cancel(turn_id)).turn_id

    async def shown(self, turn_id: str) -> tuple[int, int, str] | None:
        """Return a turn's state, place and text; an outcome that was shown stays as it is."""
        turn = await self.answer(Call("turn", (turn_id,)))
        if not isinstance(turn, Turn):
            return None
        if turn.HasField("outcome"):
            assert self._ends.setdefault(turn_id, turn.outcome) == turn.outcome
        return turn.state, turn.waiting_position, turn.outcome.text

    async def _turn(self, replica: Replica, turn_id: str) -> Turn:
        return await self.user.at(replica).turn(turn_id)

    async def _claim(self, replica: Replica, _session_id: str, turn_id: str, claim_id: str) -> Any:
        hold = self._holds.setdefault(claim_id, _Hold())
        job = self.stack.jobs.of(turn_id)[-1]
        response = await replica.work.ClaimTurn(
            work.ClaimTurnRequest(worker_id="w", claim_id=claim_id, job=job)
        )
        if response.HasField("claim"):
            if hold.claim.fence != response.claim.fence:
                hold.claim, hold.seq = response.claim, 0
            window = [message.text for message in response.claim.window]
            said = response.claim.session.message_count
            return response.claim.attempt, said, window[-ALWAYS_IN_WINDOW:]
        return "held" if response.HasField("held") else "over"

    def _held(self, replica: Replica, turn_id: str, claim_id: str) -> tuple[Held, _Hold]:
        hold = self._holds.setdefault(claim_id, _Hold())
        held = Held(self.stack, replica, turn_id, claim_id, hold.claim)
        held.seq = hold.seq
        return held, hold

    async def _record(
        self, replica: Replica, _session_id: str, turn_id: str, claim_id: str, text: str
    ) -> str:
        held, hold = self._held(replica, turn_id, claim_id)
        async with hold.writing:
            held.seq = hold.seq
            response = await held.record([text] if text else [], beat=not text)
            if response.missing_turn_ids:
                return "MISSING"
            if response.fenced_turn_ids:
                return "FENCED"
            hold.seq = held.seq
            return "APPLIED"

    async def _complete(
        self, replica: Replica, _session_id: str, turn_id: str, claim_id: str, text: str
    ) -> str:
        held, hold = self._held(replica, turn_id, claim_id)
        async with hold.writing:
            held.seq = hold.seq
            return _name((await held.complete(text)).status)

    async def _fail(
        self,
        replica: Replica,
        _session_id: str,
        turn_id: str,
        claim_id: str,
        retryable: bool,  # noqa: FBT001
    ) -> str:
        held, hold = self._held(replica, turn_id, claim_id)
        async with hold.writing:
            response = await held.fail(retryable=retryable)
            if response.HasField("finished"):
                await self.stack.archiver.publish(self.stack.bus, response.finished)
            return _name(response.status)

    async def _release(
        self, replica: Replica, _session_id: str, turn_id: str, claim_id: str
    ) -> str:
        held, hold = self._held(replica, turn_id, claim_id)
        async with hold.writing:
            return _name(await held.release())

    async def _leave(self, _replica: Replica, session_id: str, parts: int) -> None:
        names = (
            keys.record_key(session_id),
            keys.messages_key(session_id),
            keys.annotations_key(session_id),
        )
        limits = str(IDLE_MS), str(3 if parts else 1)
        await self._server_of(names[0]).eval(_LEAVE, len(names), *names, *limits)

    async def _hurry(self, _replica: Replica, session_id: str) -> None:
        key = keys.due_key(shard_of(session_id))
        redis = self._server_of(key)
        for turn_id in await redis.zrange(key, 0, -1):
            await redis.execute_command("ZADD", key, "XX", 0, turn_id)  # type: ignore[no-untyped-call] # its stub wants one kind of key

    async def _archive_again(self, replica: Replica, session_id: str) -> None:
        archive = self.stack.archive
        rows = [
            row for row in archive.finished.values() if row.job.message.session_id == session_id
        ]
        await replica.archive.MarkArchived(work.MarkArchivedRequest(turns=rows))

    async def _ensure(self, replica: Replica, session_id: str) -> int:
        archive = self.stack.archive
        jobs = [
            job
            for job in archive.accepted.values()
            if job.message.session_id == session_id and job.turn_id not in archive.finished
        ]
        response = await replica.archive.EnsureTurns(work.EnsureTurnsRequest(jobs=jobs))
        return len(response.rebuilt_turn_ids)


def _passes(error: grpc.aio.AioRpcError) -> bool:
    """Whether the same request may have another answer; a busy machine may be late with one."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return True
    return reason(error) == "CONFLICT_EXHAUSTED"


def _in_order(found: Sequence[Message]) -> Messages:
    assert [m.position for m in found] == list(range(1, len(found) + 1)), found
    return [(message.message_id, message.text) for message in found]


def _refusal(call: Call, error: grpc.aio.AioRpcError) -> str:
    why = reason(error)
    # A turn that was begun just before its session was deleted has never been there.
    return "SESSION_NOT_FOUND" if (call.name, why) == ("begin", "TURN_NOT_FOUND") else why


def _name(status: work.WriteStatus.ValueType) -> str:
    return work.WriteStatus.Name(status).removeprefix("WRITE_STATUS_")
