"""The shards' streams of facts, published in their order until each is empty."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from maieutic.bus.v1.bus_pb2 import SessionChanged, TurnAccepted
from services.runtime import telemetry
from services.runtime.errors import ServiceError
from services.session.ports import SessionStore

_log = logging.getLogger(__name__)

_AT_ONCE = 500

Publish: TypeAlias = Callable[[str, str, bytes, str], Awaitable[bool]]
"""Takes exchange, routing key, body and message id; tells whether the broker has confirmed it."""
Start: TypeAlias = Callable[[Coroutine[Any, Any, bool]], asyncio.Task[bool]]
"""Runs work in the background, outside of the call that asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingFact:
    """A fact on its way to the archive."""

    entries: list[bytes]
    """Its entry in the stream, then those of what it replaces."""
    key: str
    body: bytes


class FactPumps:
    """Publishes facts; what is not confirmed stays in its stream."""

    def __init__(
        self, store: SessionStore, *, publish: Publish, start: Start, gather_ms: int
    ) -> None:
        self._store = store
        self._publish = publish
        self._start = start
        self._gather = gather_ms / 1000
        self._locks: dict[int, asyncio.Lock] = {}
        self._waiting: dict[int, asyncio.Task[bool]] = {}
        self._gathering: dict[int, asyncio.TimerHandle] = {}
        self._started: dict[int, float] = {}

    def soon(self, shard: int) -> asyncio.Task[bool]:
        """Publish a shard's facts; the task tells whether the broker has confirmed them."""
        if shard not in self._waiting:  # that one will find these facts, too
            self._waiting[shard] = self._start(self._pump(shard))
        return self._waiting[shard]

    def gathered(self, shard: int) -> None:
        """Publish a shard's facts at once, or with those that come within a while of the last."""
        if shard in self._gathering:
            return
        wait = self._started.get(shard, 0.0) + self._gather - time.monotonic()
        if wait <= 0:
            self.soon(shard)
        else:
            loop = asyncio.get_running_loop()
            self._gathering[shard] = loop.call_later(wait, self._have_gathered, shard)

    def close(self) -> None:
        """Gather no more; what is left in the streams is published by whoever sweeps."""
        for timer in self._gathering.values():
            timer.cancel()

    def _have_gathered(self, shard: int) -> None:
        del self._gathering[shard]
        self.soon(shard)

    async def _pump(self, shard: int) -> bool:
        """Publish in their order; they leave the stream once they are confirmed."""
        async with self._locks.setdefault(shard, asyncio.Lock()):
            del self._waiting[shard]
            self._started[shard] = time.monotonic()
            try:
                full = True
                while full:  # what comes after a page that was not full has a pump of its own
                    facts = await self._store.out_read(shard, _AT_ONCE)
                    full = len(facts) == _AT_ONCE
                    if not await self._all_published(shard, condensed(facts)):
                        return False
            except ServiceError as error:
                _log.warning("facts stay in their stream for now: %s", error.reason)
                return False
            return True

    async def _all_published(self, shard: int, facts: Sequence[OutgoingFact]) -> bool:
        done: list[bytes] = []
        published = True
        for fact in facts:
            message_id = f"{shard}:{fact.entries[0].decode()}"
            with telemetry.continuing(_trace_of(fact)):
                published = await self._publish("results", fact.key, fact.body, message_id)
            if not published:
                break
            done += fact.entries
        await self._store.out_drop(shard, done)
        return published


def condensed(facts: Sequence[tuple[bytes, str, bytes]]) -> list[OutgoingFact]:
    """Leave out the states of a session that its next state replaces.

    The archive keeps only the last one. What is no state keeps its place between those before it
    and those after it. Notes and bookmarks come with some states only, and replace only theirs.
    """
    kept: list[OutgoingFact] = []
    later: dict[str, tuple[OutgoingFact, bool]] = {}
    for entry, key, body in reversed(facts):
        fact = OutgoingFact(entries=[entry], key=key, body=body)
        if key != "session.changed":
            later.clear()
            kept.append(fact)
            continue
        changed = SessionChanged.FromString(body)
        annotated, session_id = changed.HasField("annotations"), changed.session.session_id
        following, has_annotations = later.get(session_id, (None, False))
        if following is not None and (has_annotations or not annotated):
            following.entries.append(entry)
        else:
            later[session_id] = fact, annotated
            kept.append(fact)
    return kept[::-1]


def _trace_of(fact: OutgoingFact) -> Mapping[str, str]:
    """Return the trace that a fact belongs to, if it is about a turn."""
    if fact.key != "turn.accepted":
        return {}
    return TurnAccepted.FromString(fact.body).job.trace_context
