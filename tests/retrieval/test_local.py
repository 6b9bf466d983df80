"""The local index beyond the contract: its files, and who may open them."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from services.retrieval.adapters.index import open_index
from services.retrieval.adapters.local import LocalVectorIndex
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
    vectors, query = unit_vectors(2000), unit_vectors(1)[0]
    matrix = Matrix(16)
    matrix.put(range(2000), vectors)
    matrix.link({str(part): range(part, 2000, 10) for part in range(10)})
    for documents in (["3"], ["1", "2"], [str(part) for part in range(10)]):
        keys = [key for key in range(2000) if str(key % 10) in documents]
        best = sorted(keys, key=lambda key: -float(vectors[key] @ query))[:20]
        assert [key for key, _ in matrix.nearest(query, documents, 20)] == best


def test_rows_of_removed_vectors_are_used_again() -> None:
    matrix, vectors = Matrix(16), unit_vectors(300)
    for turn in range(20):
        keys = range(turn * 300, turn * 300 + 300)
        matrix.put(keys, vectors)
        matrix.link({"d": keys})
        assert [key for key, _ in matrix.nearest(vectors[7], ["d"], 1)] == [turn * 300 + 7]
        matrix.unlink("d", keys)
    assert len(matrix._keys) < 600
