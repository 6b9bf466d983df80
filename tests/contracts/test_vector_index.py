"""What every vector index does, whatever keeps the vectors."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from services.retrieval.model import Chunk
from services.retrieval.ports import Hit, VectorIndex, Vectors
from tests.contracts.vector_indexes import ADAPTERS, DIMENSION, OpenIndex

TENANT, OTHER = "acme", "other"


@pytest_asyncio.fixture(params=list(ADAPTERS))
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenIndex]:
    async with ADAPTERS[request.param](tmp_path) as opened:
        yield opened


@pytest_asyncio.fixture
async def index(opened: OpenIndex) -> AsyncIterator[VectorIndex]:
    async with opened() as index:
        yield index


def chunk(name: str) -> Chunk:
    return Chunk(id=f"id-of-{name}", text=f"text of {name}")


def direction(*parts: float) -> Vectors:
    """Return the unit vector whose first coordinates have these proportions."""
    vector = np.zeros(DIMENSION, np.float32)
    vector[: len(parts)] = parts
    unit: Vectors = vector / np.float32(np.linalg.norm(vector))
    return unit


EAST, NORTH = direction(1), direction(0, 1)


async def store(
    index: VectorIndex, document: str, chunks: dict[str, Vectors], *, namespace: str = TENANT
) -> None:
    """Store a document of these chunks, in this order."""
    vectors = np.stack(list(chunks.values()))
    await index.upsert(namespace, document, [chunk(name) for name in chunks], vectors)
    assert await index.link(namespace, document, [chunk(name).id for name in chunks])


async def found(
    index: VectorIndex,
    vector: Vectors,
    documents: Sequence[str],
    *,
    limit: int = 10,
    namespace: str = TENANT,
) -> list[Hit]:
    return await index.search(namespace, vector, document_ids=documents, limit=limit)


def names(hits: Sequence[Hit]) -> list[str]:
    return [hit.chunk.id.removeprefix("id-of-") for hit in hits]


async def stored(index: VectorIndex, *wanted: str, namespace: str = TENANT) -> set[str]:
    """Return which of the chunks are stored."""
    missing = await index.missing(namespace, [chunk(name).id for name in wanted])
    return {name for name in wanted if chunk(name).id not in missing}


async def test_the_nearest_chunks_come_first_with_their_cosine(index: VectorIndex) -> None:
    near, far = direction(1, 1), direction(-1)
    await store(index, "d", {"far": far, "near": near, "exact": EAST, "across": NORTH})
    hits = await found(index, EAST, ["d"])
    assert names(hits) == ["exact", "near", "across", "far"]
    assert [hit.score for hit in hits] == pytest.approx([1, 0.5**0.5, 0, -1], abs=1e-5)
    assert [hit.position for hit in hits] == [2, 1, 3, 0]
    assert [hit.chunk for hit in hits] == [chunk(name) for name in names(hits)]
    assert {hit.document_id for hit in hits} == {"d"}


async def test_no_more_than_the_limit_come(index: VectorIndex) -> None:
    chunks = {f"c{number}": direction(number, 1) for number in range(30)}
    await store(index, "d", chunks)
    for limit in (1, 7, 29, 30, 50):
        hits = await found(index, EAST, ["d"], limit=limit)
        assert names(hits) == [f"c{number}" for number in range(29, -1, -1)][:limit]


async def test_only_the_documents_that_are_named_are_searched(index: VectorIndex) -> None:
    for name in "abc":
        await store(index, name, {f"chunk-{name}": direction(1, ord(name))})
    assert names(await found(index, EAST, ["b"])) == ["chunk-b"]
    assert sorted(names(await found(index, EAST, ["a", "c"]))) == ["chunk-a", "chunk-c"]
    assert await found(index, EAST, []) == []
    assert await found(index, EAST, ["unknown"]) == []


async def test_a_namespace_is_a_world_of_its_own(index: VectorIndex) -> None:
    await store(index, "d", {"one": EAST})
    assert await stored(index, "one", namespace=OTHER) == set()
    assert await found(index, EAST, ["d"], namespace=OTHER) == []
    assert not await index.link(OTHER, "d", [chunk("one").id])
    await store(index, "d", {"one": NORTH}, namespace=OTHER)
    await index.unlink(OTHER, "d")
    assert names(await found(index, EAST, ["d"])) == ["one"]
    assert await stored(index, "one", namespace=OTHER) == set()


async def test_missing_are_those_never_stored(index: VectorIndex) -> None:
    assert await index.missing(TENANT, []) == frozenset()
    await index.upsert(TENANT, "d", [chunk("one")], np.stack([EAST]))
    ids = [chunk("one").id, chunk("two").id]
    assert await index.missing(TENANT, ids) == frozenset({chunk("two").id})


async def test_a_chunk_is_not_found_before_it_is_linked(index: VectorIndex) -> None:
    await store(index, "d", {"one": EAST})
    await index.upsert(TENANT, "d", [chunk("two")], np.stack([EAST]))
    assert names(await found(index, EAST, ["d"])) == ["one"]


async def test_linking_what_is_not_stored_links_nothing(index: VectorIndex) -> None:
    await store(index, "d", {"one": EAST})
    assert not await index.link(TENANT, "d", [chunk("two").id, chunk("one").id])
    assert not await index.link(TENANT, "e", [chunk("one").id, chunk("two").id])
    assert names(await found(index, EAST, ["d", "e"])) == ["one"]
    assert (await found(index, EAST, ["d"]))[0].position == 0


async def test_every_write_may_be_repeated(index: VectorIndex) -> None:
    for _ in range(3):
        await store(index, "d", {"one": EAST, "two": NORTH})
    assert names(await found(index, EAST, ["d"])) == ["one", "two"]
    for _ in range(2):
        await index.unlink(TENANT, "d")
    assert await stored(index, "one", "two") == set()


async def test_linking_again_replaces_what_the_document_had(index: VectorIndex) -> None:
    await store(index, "d", {"one": EAST, "two": NORTH})
    await store(index, "d", {"two": NORTH, "three": direction(1, 1)})
    hits = await found(index, EAST, ["d"])
    assert [(name, hit.position) for name, hit in zip(names(hits), hits, strict=True)] == [
        ("three", 1),
        ("two", 0),
    ]


async def test_a_shared_chunk_is_found_once_at_a_place_in_what_is_searched(
    index: VectorIndex,
) -> None:
    await store(index, "a", {"shared": EAST})
    await store(index, "b", {"own": NORTH, "shared": EAST})
    everywhere = await found(index, EAST, ["a", "b"])
    assert names(everywhere) == ["shared", "own"]
    place = everywhere[0].document_id, everywhere[0].position
    assert place in {("a", 0), ("b", 1)}
    (hit,) = await found(index, EAST, ["b"], limit=1)
    assert (hit.document_id, hit.position) == ("b", 1)


async def test_a_chunk_that_repeats_within_a_document_is_found_once(index: VectorIndex) -> None:
    await index.upsert(TENANT, "d", [chunk("one"), chunk("two")], np.stack([EAST, NORTH]))
    ids = [chunk(name).id for name in ("one", "two", "one")]
    assert await index.link(TENANT, "d", ids)
    hits = await found(index, EAST, ["d"])
    assert names(hits) == ["one", "two"]
    assert hits[0].position in {0, 2}


async def test_a_removed_document_takes_the_chunks_that_nobody_else_has(
    index: VectorIndex,
) -> None:
    await store(index, "a", {"shared": EAST, "of a": NORTH})
    await store(index, "b", {"shared": EAST, "of b": NORTH})
    await index.unlink(TENANT, "a")
    assert await stored(index, "shared", "of a", "of b") == {"shared", "of b"}
    assert names(await found(index, EAST, ["a", "b"])) == ["shared", "of b"]
    await index.unlink(TENANT, "b")
    assert await stored(index, "shared", "of b") == set()
    assert await found(index, EAST, ["a", "b"]) == []
    await index.unlink(TENANT, "never there")


async def test_what_was_removed_can_be_stored_anew(index: VectorIndex) -> None:
    for vector in (EAST, NORTH):
        await store(index, "d", {"one": vector, "two": direction(1, 1)})
        (best, *_) = await found(index, vector, ["d"])
        assert names([best]) == ["one"]
        assert best.score == pytest.approx(1, abs=1e-5)
        await index.unlink(TENANT, "d")


async def test_all_is_there_when_the_index_is_opened_again(opened: OpenIndex) -> None:
    async with opened() as index:
        await store(index, "a", {"one": EAST, "two": NORTH})
        await store(index, "b", {"one": EAST, "three": direction(1, 1)})
        await index.unlink(TENANT, "a")
        before = await found(index, EAST, ["a", "b"])
    async with opened() as index:
        assert await found(index, EAST, ["a", "b"]) == before
        assert names(before) == ["one", "three"]
        await store(index, "c", {"four": EAST})
        assert sorted(names(await found(index, EAST, ["b", "c"]))) == ["four", "one", "three"]


async def test_documents_added_at_once_are_all_complete(index: VectorIndex) -> None:
    def parts(number: int) -> dict[str, Vectors]:
        return {"shared": EAST, f"own-{number}": direction(1, number + 1)}

    await asyncio.gather(*(store(index, f"d{number}", parts(number)) for number in range(30)))
    for number in range(30):
        hits = await found(index, EAST, [f"d{number}"])
        assert names(hits) == ["shared", f"own-{number}"]
    everything = await found(index, EAST, [f"d{number}" for number in range(30)], limit=50)
    assert sorted(names(everything)) == sorted(["shared", *(f"own-{n}" for n in range(30))])


async def test_a_search_sees_a_document_whole_or_not_at_all(index: VectorIndex) -> None:
    await store(index, "stays", {"here": NORTH})
    chunks = {f"c{number}": direction(1, number) for number in range(20)}

    async def come_and_go() -> None:
        for _ in range(20):
            await store(index, "comes", chunks)
            await index.unlink(TENANT, "comes")

    changing = asyncio.create_task(come_and_go())
    seen = set()
    while not changing.done():
        seen.add(len(await found(index, EAST, ["stays", "comes"], limit=50)))
    await changing
    assert seen <= {1, 21}


async def test_text_is_kept_to_the_character(index: VectorIndex) -> None:
    text = "Zeile\n\t'; DROP TABLE chunks; -- \x00 e\u0301 👩\u200d👩 \u202e"
    await index.upsert(TENANT, "d", [Chunk(id="x", text=text)], np.stack([EAST]))
    assert await index.link(TENANT, "d", ["x"])
    assert (await found(index, EAST, ["d"]))[0].chunk == Chunk(id="x", text=text)


async def test_what_a_document_is_linked_without_goes_unless_another_has_it(
    index: VectorIndex,
) -> None:
    await store(index, "a", {"shared": EAST, "old": NORTH})
    await store(index, "b", {"shared": EAST})
    await store(index, "a", {"new": NORTH})
    assert await stored(index, "shared", "old", "new") == {"shared", "new"}
    assert names(await found(index, EAST, ["a"])) == ["new"]
    assert await index.count(TENANT, "a") == 1


async def test_chunks_of_a_document_that_never_came_to_be_go_with_it(index: VectorIndex) -> None:
    await index.upsert(TENANT, "a", [chunk("one"), chunk("two")], np.stack([EAST, NORTH]))
    await store(index, "b", {"one": EAST})
    await index.unlink(TENANT, "a")
    assert await index.count(TENANT, "a") == 0
    assert await index.contents(TENANT) == {"b": frozenset({chunk("one").id})}


async def test_the_contents_are_those_of_every_document(index: VectorIndex) -> None:
    assert await index.contents(TENANT) == {}
    await store(index, "a", {"one": EAST, "two": NORTH})
    await store(index, "b/#", {"two": NORTH})
    await store(index, "c", {"three": EAST}, namespace=OTHER)
    await store(index, "d", {"four": EAST})
    await index.unlink(TENANT, "d")
    assert await index.contents(TENANT) == {
        "a": frozenset({chunk("one").id, chunk("two").id}),
        "b/#": frozenset({chunk("two").id}),
    }
    assert [await index.count(TENANT, one) for one in ("a", "b/#", "c", "d")] == [2, 1, 0, 0]


async def test_chunks_are_read_with_their_vectors(opened: OpenIndex) -> None:
    north = direction(3, 4)
    async with opened() as index:
        await store(index, "d", {"one": EAST, "two": north})
        await store(index, "e", {"two": north})
        await store(index, "d", {"other": EAST}, namespace=OTHER)
    async with opened() as index:
        ids = [chunk(name).id for name in ("one", "two", "other", "unknown")]
        read = {one.chunk.id: one for one in await index.read(TENANT, ids)}
        assert [read[chunk(name).id].chunk for name in ("one", "two")] == [
            chunk("one"),
            chunk("two"),
        ]
        assert len(read) == 2
        assert read[chunk("two").id].vector == pytest.approx(north, abs=1e-7)
        assert await index.read(TENANT, []) == []
        assert await index.read("nobody", ids) == []
