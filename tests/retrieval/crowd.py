"""Many users who hold many chats over the same documents, and what that costs to store."""

import asyncio
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.settings import ExpiryOptions
from tests.retrieval.archives import held_archive
from tests.retrieval.running import CountingEmbedder, Retrieval, running_retrieval

AT_ONCE = 8
QUERY = "how is it installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a crowd has cost."""

    bytes: int
    """In the files of the archive and of the index, without those of an empty archive."""
    embedded: int
    """Texts that were embedded as chunks."""
    distinct: int
    """Distinct chunks of the documents."""
    found: int
    """Chats whose search found something."""


async def cost_of(
    folder: Path, embedder: CountingEmbedder, texts: Mapping[str, str], *, users: int, chats: int
) -> Cost:
    """Let each user add all documents and search them in each chat; the folder must be empty."""
    folder.mkdir(parents=True)
    async with held_archive(folder):
        empty = _size(folder)
    embedder.texts.clear()
    async with running_retrieval(
        folder, embedder=embedder, expiry=ExpiryOptions(interval=0)
    ) as retrieval:
        counts = await _all(retrieval, texts, users, chats)
    chunks = [text for text in embedder.texts if text != QUERY]
    return Cost(
        bytes=_size(folder) - empty,
        embedded=len(chunks),
        distinct=_distinct(folder),
        found=sum(counts),
    )


async def _all(retrieval: Retrieval, texts: Mapping[str, str], users: int, chats: int) -> list[int]:
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> int:
        async with turn:
            return await _life(retrieval, f"user-{number}", texts, chats)

    return await asyncio.gather(*(one(number) for number in range(users)))


async def _life(retrieval: Retrieval, name: str, texts: Mapping[str, str], chats: int) -> int:
    """Add the documents, and search their set in each chat; returns how many found something."""
    user = retrieval.user(name)
    added = [await user.add(text, name=title) for title, text in texts.items()]
    made = await user.make_set(*(one.document.document_id for one in added))
    wanted = pb.SearchDocumentsRequest(query=QUERY, document_set_ids=[made])
    answers = [await user.look(wanted) for _ in range(chats)]
    return sum(1 for answer in answers if answer.passages)


def _size(folder: Path) -> int:
    """Return the bytes of all files; what used them has ended."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _distinct(folder: Path) -> int:
    (file,) = folder.glob("*.sqlite3")
    with closing(sqlite3.connect(file)) as database:
        (count,) = database.execute("SELECT count(*) FROM chunks").fetchone()
    return int(count)
