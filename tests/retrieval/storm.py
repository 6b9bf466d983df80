"""Adding, replacing and giving up documents at random while the service is killed.

Every user does one thing at a time and repeats it, with the same request id, until it is answered.
So what each of them must have in the end is known, whatever was killed in between.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.model import Content, Splitter
from services.runtime.errors import (
    Aborted,
    Cancelled,
    DeadlineExceeded,
    Unavailable,
)
from tests.retrieval.deployment import Deployment
from tests.retrieval.running import User
from tests.waiting import wait_until

T = TypeVar("T")

TENANT = "acme"
LOST = (Unavailable, DeadlineExceeded, Cancelled, Aborted)
RETRY_SECONDS = 0.05
TEXTS, PARAGRAPHS = 12, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """How much is done, and how often the service dies meanwhile."""

    operations: int
    kills: int
    users: int = 4
    seed: int = 1


@dataclass
class Account:
    """What was done, and who must have what."""

    held: dict[str, set[str]] = field(default_factory=dict)
    done: int = 0
    repeated: int = 0

    def has_done(self, operations: int) -> bool:
        return self.done >= operations


def texts(seed: int) -> list[str]:
    """Return texts that share many of their paragraphs."""
    draw = random.Random(seed)
    parts = [f"Part {n} tells of matter {n * 7919 % 97}. " * 12 for n in range(3 * PARAGRAPHS)]
    return ["\n\n".join(draw.sample(parts, PARAGRAPHS)) for _ in range(TEXTS)]


async def rage(deployment: Deployment, storm: Storm) -> Account:
    """Do it all, killing the process at regular places; returns what must have come of it."""
    account = Account(held={f"user-{number}": set() for number in range(storm.users)})
    async with deployment.channel() as channel:
        tasks = [
            asyncio.create_task(_life(User(channel, TENANT, name), name, account, storm))
            for name in account.held
        ]
        for kill in range(1, storm.kills + 1):
            place = storm.operations * kill // (storm.kills + 1)
            await wait_until(partial(account.has_done, place), timeout=600.0)
            await deployment.process.kill()
            await deployment.start()
        await asyncio.gather(*tasks)
    return account


async def _life(user: User, name: str, account: Account, storm: Storm) -> None:
    draw = random.Random(f"{storm.seed} {name}")
    mine, choice = account.held[name], texts(storm.seed)
    for number in range(storm.operations // storm.users):
        text, hurry, dice = draw.choice(choice), draw.random() < 0.5, draw.random()
        target = draw.choice(sorted(mine)) if mine else ""
        id_ = f"{name}-{number}"
        if not mine or dice < 0.45:
            adding = partial(user.add, text, request_id=id_, accept_only=hurry)
            added = await _answered(account, adding)
            mine.add(added.document.document_id)
        elif dice < 0.7:
            replacing = partial(user.replace, target, text, request_id=id_, accept_only=hurry)
            await _answered(account, replacing)
        else:
            await _answered(account, partial(user.delete, target, request_id=id_))
            mine.discard(target)
        account.done += 1


async def _answered(account: Account, call: Callable[[], Awaitable[T]]) -> T:
    """Return the answer, however often the call must be made for it."""
    while True:
        try:
            return await call()
        except LOST:
            account.repeated += 1
        await asyncio.sleep(RETRY_SECONDS)


async def settled(deployment: Deployment) -> bool:
    """Whether there is nothing left to do for any document."""
    return set((await deployment.archive.states()).values()) <= {"READY"}


async def check_registry(deployment: Deployment, account: Account) -> None:
    """Fail unless the registry has exactly what the users have."""
    ask = deployment.archive.harness.rows
    rows = await ask("SELECT owner, document_id FROM document_references")
    assert sorted(rows) == sorted((name, one) for name, ids in account.held.items() for one in ids)
    states = await deployment.archive.states()
    assert set(states) == set().union(*account.held.values())
    assert set(states.values()) <= {"READY"}
    kept = await ask("SELECT content_hash FROM document_contents")
    used = await ask("SELECT DISTINCT content_hash FROM documents")
    assert sorted(kept) == sorted(used)


async def check_index(deployment: Deployment, *, embedder: str, dimension: int) -> int:
    """Fail unless the index has exactly the chunks of the registry's texts; returns how many.

    The service must have stopped: its index is for one process.
    """
    rows = await deployment.archive.harness.rows(
        "SELECT document_id, content FROM documents"
        " JOIN document_contents USING (tenant, content_hash)"
    )
    splitter = Splitter(embedder=embedder)
    form = pb.DOCUMENT_FORMAT_TEXT
    wanted = {
        document_id: frozenset(
            chunk.id for chunk in splitter.chunks(Content(text=content.decode()), form)
        )
        for document_id, content in rows
    }
    opened = LocalVectorIndex.open(deployment.vectors, embedder=embedder, dimension=dimension)
    async with opened as index:
        assert await index.contents(TENANT) == wanted
        missing: Sequence[str] = sorted(
            await index.missing(TENANT, frozenset().union(*wanted.values()))
        )
        assert not missing
    return len(frozenset().union(*wanted.values()))
