"""The primaries of a cluster, each with its links; a key's slot tells which one has it."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeAlias

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import (
    AskError,
    MovedError,
    RedisError,
    TryAgainError,
)

from services.session.adapters.address import BadStoreUrl, Place, StoreAddress
from services.session.adapters.dialing import Patience, dial
from services.session.adapters.link import Command, Link, OnMessage
from services.session.adapters.links import Links
from services.session.adapters.passing import explained, is_passing, nobody
from services.session.adapters.retrying import until_served
from services.session.adapters.slots import Shares, Unit, shares_of, units_of

_log = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1
"""Between two looks at which node has what."""

OnFailure: TypeAlias = Callable[[BaseException], None]
LinksTo: TypeAlias = Callable[[Place, OnFailure], Links]


class Cluster:
    """All primaries as one. Which has which slot is looked up again whenever it was wrong."""

    def __init__(self, address: StoreAddress, patience: Patience, links_to: LinksTo) -> None:
        self._address = address
        self._patience = patience
        self._links_to = links_to
        self._nodes: dict[Place, Links] = {}
        self._primaries: list[Links] = []
        self._by_slot: list[Links | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._known: Sequence[Place] = address.places
        self._looking: asyncio.Task[None] | None = None
        self._problem: Exception | None = None
        """What was in the way when all nodes were asked for their slots, and none answered."""

    @classmethod
    @asynccontextmanager
    async def of(
        cls, address: StoreAddress, patience: Patience, links_to: LinksTo
    ) -> AsyncIterator[Self]:
        """Follow the cluster during the block; nodes may be away at its beginning.

        Raises BadStoreUrl if the servers are no cluster.
        """
        cluster = cls(address, patience, links_to)
        try:
            await cluster._look()
            yield cluster
        finally:
            await cluster._close()

    def at(self, key: str) -> Links:
        """See Servers. Raises ConnectionError for a slot that no known node has."""
        return self._at(key_slot(key.encode()))

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """See Servers. What one node has goes together; only what was refused goes again."""
        units = list(units_of(commands))
        left: Sequence[Unit] = units

        async def once() -> None:
            nonlocal left
            left, problem = await self._ask_nodes(left)
            if problem is not None:
                raise problem

        await until_served(once, self._patience.answer)
        return [reply for unit in units for reply in unit.replies]

    def primaries(self) -> Sequence[Links]:
        """See Servers."""
        return self._primaries

    async def ask_all(self, commands: Sequence[Command]) -> list[list[Any]]:
        """See Servers."""

        async def once() -> list[list[Any]]:
            if not self._primaries:
                self._look_soon()
                raise nobody("no node is known", self._problem)
            return await asyncio.gather(*(links.ask(commands) for links in self._primaries))

        return await until_served(once, self._patience.answer)

    async def dial(self, on_message: OnMessage | None = None) -> Link:
        """See Servers: what is published in a cluster reaches every node."""
        problem: Exception = nobody("no node is known", self._problem)
        for place in random.sample(self._known, len(self._known)):
            try:
                return await dial(place, self._address.access, self._patience, on_message)
            except (RedisError, OSError) as error:
                problem = error
        raise problem

    async def _ask_nodes(
        self, units: Sequence[Unit]
    ) -> tuple[Sequence[Unit], BaseException | None]:
        """Return the units that were not served, and why."""
        groups: dict[Links, list[Unit]] = {}
        for unit in units:
            groups.setdefault(self._for(unit), []).append(unit)
        asked = [self._ask_node(links, group) for links, group in groups.items()]
        results = await asyncio.gather(*asked, return_exceptions=True)
        left: list[Unit] = []
        problem: BaseException | None = None
        for group, result in zip(groups.values(), results, strict=True):
            if isinstance(result, RedisError | OSError):
                left, problem = left + group, result
            elif isinstance(result, BaseException):
                raise result
            elif result:
                left, problem = left + [unit for unit, _ in result], result[-1][1]
        return left, problem

    async def _ask_node(self, links: Links, units: Sequence[Unit]) -> list[tuple[Unit, RedisError]]:
        """Return the units that the node refused, and why."""
        replies = iter(await links.ask([command for unit in units for command in unit.sent()]))
        refused: list[tuple[Unit, RedisError]] = []
        for unit in units:
            unit.take(replies)
            refusal = next(filter(is_passing, unit.replies), None)
            if refusal is None:
                continue
            links.failed(refusal)
            asking = isinstance(refusal, AskError) and not isinstance(refusal, MovedError)
            unit.moving_to = self._told_by(links, refusal) if asking else None
            refused.append((unit, refusal))
        return refused

    def _told_by(self, links: Links, refusal: AskError) -> Place:
        asked = next(place for place, known in self._nodes.items() if known is links)
        return Place(refusal.host or asked.host, refusal.port)

    def _for(self, unit: Unit) -> Links:
        if unit.moving_to is not None:
            return self._node(unit.moving_to)
        if unit.slot is not None:
            return self._at(unit.slot)
        if not self._primaries:
            self._look_soon()
            raise nobody("no node is known", self._problem)
        return random.choice(self._primaries)  # noqa: S311 - any will do

    def _at(self, slot: int) -> Links:
        if (links := self._by_slot[slot]) is None:
            self._look_soon()
            raise nobody(f"no node is known to have slot {slot}", self._problem)
        return links

    def _node(self, place: Place) -> Links:
        if (links := self._nodes.get(place)) is None:
            links = self._nodes[place] = self._links_to(
                place, lambda error: self._learn(place, error)
            )
        return links

    def _learn(self, place: Place, error: BaseException) -> None:
        """Learn from what a node answered, or from its silence."""
        if isinstance(error, MovedError):
            to = Place(error.host or place.host, error.port)
            self._by_slot[error.slot_id] = self._node(to)
        elif isinstance(error, AskError | TryAgainError):
            return  # the slot still belongs to the node; its keys are on their way
        self._look_soon()

    def _look_soon(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_and_rest())

    async def _look_and_rest(self) -> None:
        with suppress(BadStoreUrl):
            await self._look()
        await asyncio.sleep(_PAUSE_SECONDS)

    async def _look(self) -> None:
        """Ask one node after the other, until one sees the cluster whole."""
        best: Shares | None = None
        told = self._problem is not None
        problems: list[str] = []
        for place in self._candidates():
            try:
                found = await self._seen_by(place)
            except (RedisError, OSError) as error:
                problems.append(f"{place}: {explained(error)}")
                self._problem = error
                continue
            best = found
            if found.served:
                break
        if best is not None:
            self._problem = None
            self._take(best)
        elif not told:
            _log.warning("no node of the store's cluster answers (%s)", "; ".join(problems))

    def _candidates(self) -> list[Place]:
        known = random.sample(self._known, len(self._known))
        return [*known, *(place for place in self._address.places if place not in known)]

    async def _seen_by(self, place: Place) -> Shares:
        link = await dial(place, self._address.access, self._patience)
        try:
            info, slots = await link.request([("CLUSTER", "INFO"), ("CLUSTER", "SLOTS")])
        finally:
            link.close()
        if isinstance(info, RedisError) and "cluster support disabled" in str(info):
            raise BadStoreUrl(f"names {place}, which is no node of a cluster: write redis://")
        for reply in (info, slots):
            if isinstance(reply, Exception):
                raise reply
        return shares_of(place, info, slots)

    def _take(self, shares: Shares) -> None:
        by_slot: list[Links | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, place in shares.ranges:
            by_slot[first : last + 1] = [self._node(place)] * (last + 1 - first)
        self._by_slot, self._known = by_slot, shares.nodes
        self._primaries = list(dict.fromkeys(self._node(place) for _, _, place in shares.ranges))
        for links in self._nodes.values():
            if links not in self._primaries:
                links.leave()

    async def _close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await asyncio.gather(*(links.close() for links in self._nodes.values()))
