"""The local index beyond the contract: its files, and who may open them."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from services.retrieval.adapters.index import open_index
from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.adapters.local_files import file_of
from services.retrieval.adapters.matrix import Matrix
from services.retrieval.errors import BadIndexUrl, IndexDamaged, IndexUnavailable
from services.retrieval.model import Chunk
from services.retrieval.ports import Vectors
from services.retrieval.settings import PineconeOptions
from tests.retrieval.running import CountingEmbedder


def unit_vectors(count: int, dimension: int = 16) -> Vectors:
    vectors = np.random.default_rng(7).normal(size=(count, dimension)).astype(np.float32)
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


async def test_a_second_opener_is_told_that_the_index_is_taken(tmp_path: Path) -> None:
    async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=4):
        with pytest.raises(IndexUnavailable, match="locked"):
            async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=4):
                pass
        async with LocalVectorIndex.open(tmp_path, embedder="another", dimension=4):
            pass
    async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=4):
        pass


async def test_a_file_that_is_no_index_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "one.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(IndexDamaged):
        async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=4):
            pass


async def test_a_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IndexUnavailable):
        async with LocalVectorIndex.open(tmp_path / "file" / "x", embedder="one", dimension=4):
            pass


async def test_the_url_names_the_folder(tmp_path: Path, embedder: CountingEmbedder) -> None:
    for slashes in ("local://", "local:///"):
        folder = tmp_path / f"in-{len(slashes)}"
        async with open_index(f"{slashes}{folder}", embedder, PineconeOptions()):
            assert [file.suffix for file in folder.iterdir()].count(".sqlite3") == 1


@pytest.mark.parametrize("url", ["", "/x", "local://", "local:///", "pinecone://", "qdrant://h/x"])
async def test_an_unknown_url_is_refused(url: str, embedder: CountingEmbedder) -> None:
    with pytest.raises(BadIndexUrl, match="local:///path"):
        async with open_index(url, embedder, PineconeOptions()):
            pass


async def test_the_loop_goes_on_while_the_index_works(tmp_path: Path) -> None:
    """A call that blocked the loop would let nothing else run until it is done."""
    chunks = [Chunk(id=str(number), text="x" * 1000) for number in range(5000)]
    vectors = unit_vectors(len(chunks))
    async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=16) as index:
        storing = asyncio.create_task(index.upsert("acme", "d", chunks, vectors))
        rounds = 0
        while not storing.done():
            await asyncio.sleep(0)
            rounds += 1
        await storing
        assert rounds > 10
        assert not await index.missing("acme", [one.id for one in chunks])


def test_the_matrix_finds_what_comparing_one_by_one_finds() -> None:
    vectors, query = unit_vectors(20_000), unit_vectors(1)[0]
    matrix = Matrix(lambda _: vectors)
    matrix.link({str(part): range(part, len(vectors), 10) for part in range(10)})
    # Of some rows, of more than are compared at a time, and of nearly all.
    for documents in (["3"], ["1", "2", "4", "5"], [str(part) for part in range(9)]):
        rows = [row for row in range(len(vectors)) if str(row % 10) in documents]
        best = sorted(rows, key=lambda row: -float(vectors[row] @ query))[:20]
        assert [row for row, _ in matrix.nearest(query, documents, 20)] == best


async def test_rows_of_removed_vectors_are_used_again(tmp_path: Path) -> None:
    chunks, vectors = [Chunk(id=str(n), text="x") for n in range(300)], unit_vectors(300)
    ids = [chunk.id for chunk in chunks]
    async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=16) as index:
        await index.upsert("acme", "stays", [Chunk(id="stays", text="y")], vectors[:1])
        for turn in range(5):
            await index.upsert("acme", "d", chunks, np.roll(vectors, turn, axis=0))
            assert await index.link("acme", "d", ids)
            (hit,) = await index.search("acme", vectors[7], document_ids=["d"], limit=1)
            assert hit.chunk.id == str(7 + turn)
            await index.unlink("acme", "d")
        (file,) = (tmp_path / "one.vectors").iterdir()
        assert file.stat().st_size == 301 * 16 * 4
        await index.unlink("acme", "stays")
        assert not file.exists()


async def test_a_namespace_is_opened_when_it_is_first_used(tmp_path: Path) -> None:
    """So one whose file is broken harms no other, and says so itself."""
    async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=16) as index:
        for tenant in ("acme", "other"):
            await index.upsert(tenant, "d", [Chunk(id="x", text="x")], unit_vectors(1))
            assert await index.link(tenant, "d", ["x"])
    broken = file_of(tmp_path / "one.vectors", "acme")
    broken.write_bytes(broken.read_bytes()[:-1])
    async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=16) as index:
        assert await index.search("other", unit_vectors(1)[0], document_ids=["d"], limit=1)
        with pytest.raises(IndexDamaged, match="0 vectors of 1"):
            await index.search("acme", unit_vectors(1)[0], document_ids=["d"], limit=1)


async def test_what_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=16) as index:
        folder = tmp_path / "one.vectors"
        folder.write_text("in the way")
        with pytest.raises(IndexUnavailable):
            await index.upsert("acme", "d", [Chunk(id="x", text="x")], unit_vectors(1))
        assert await index.missing("acme", ["x"]) == {"x"}
        folder.unlink()
        await index.upsert("acme", "d", [Chunk(id="x", text="x")], unit_vectors(1))
        assert await index.link("acme", "d", ["x"])
        assert await index.search("acme", unit_vectors(1)[0], document_ids=["d"], limit=1)


EARLIER = """
CREATE TABLE chunks (
    key INTEGER PRIMARY KEY, namespace TEXT NOT NULL, chunk_id TEXT NOT NULL, text TEXT NOT NULL,
    vector BLOB NOT NULL, UNIQUE (namespace, chunk_id)
);
CREATE TABLE links (
    namespace TEXT NOT NULL, document_id TEXT NOT NULL, position INTEGER NOT NULL,
    chunk INTEGER NOT NULL REFERENCES chunks (key),
    PRIMARY KEY (namespace, document_id, position)
) WITHOUT ROWID;
"""


async def test_vectors_that_an_earlier_version_kept_in_the_database_are_found(
    tmp_path: Path,
) -> None:
    vectors = unit_vectors(40)
    tenants = [f"tenant-{n % 2}" for n in range(40)]
    with closing(sqlite3.connect(tmp_path / "one.sqlite3")) as database:
        database.executescript(EARLIER)
        database.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, 'text', ?)",
            [(n, tenants[n], f"chunk-{n}", vectors[n].tobytes()) for n in range(40)],
        )
        links = [(tenant, n, n) for n, tenant in enumerate(tenants)]
        database.executemany("INSERT INTO links VALUES (?, 'd', ?, ?)", links)
        database.commit()
    for _ in range(2):
        async with LocalVectorIndex.open(tmp_path, embedder="one", dimension=16) as index:
            for n, tenant in enumerate(tenants):
                (hit,) = await index.search(tenant, vectors[n], document_ids=["d"], limit=1)
                assert hit.chunk.id == f"chunk-{n}"
                assert hit.score == pytest.approx(1)
