"""Which index versions a process has open, and for how long."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from maieutic.v1.index_admin_service_pb2 import IndexVersion
from services.retrieval.adapters.local import LocalVectorIndex
from services.retrieval.catalog import Catalog, Listed, Recipe
from services.retrieval.errors import VersionGone, VersionUnusable
from services.retrieval.ports import Embedder, VectorIndex
from services.retrieval.settings import RetrievalSettings
from services.retrieval.versions import Openers, Versions
from services.runtime.errors import Unavailable
from tests.retrieval.running import CountingEmbedder


class Board(Catalog):
    """A registry in memory, which other processes write, too, and which may be away."""

    def __init__(self) -> None:
        self.listed: list[Listed] = []
        self.away = False

    async def register(self, recipe: Recipe, *, space: str, first_only: bool = False) -> None:
        state = IndexVersion(version_id=recipe.version_id, current=not self.listed)
        self.listed.append(Listed(recipe=recipe, space=space, state=state))

    async def versions(self, *, counted: bool = False) -> Sequence[Listed]:
        if self.away:
            raise Unavailable("away")
        return list(self.listed)


class Shelf:
    """Opens indexes in a folder, and knows which are open."""

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self.open: set[str] = set()
        self._folder = folder
        self._embedder = embedder

    def openers(self) -> Openers:
        return Openers(
            embedder=lambda _: nullcontext(self._embedder),
            index=self._index,
            erase=lambda _: None,
        )

    @asynccontextmanager
    async def _index(self, space: str, embedder: Embedder) -> AsyncIterator[VectorIndex]:
        opening = LocalVectorIndex.open(self._folder, embedder=space, dimension=embedder.dimension)
        async with opening as index:
            self.open.add(space)
            try:
                yield index
            finally:
                self.open.remove(space)


@pytest.fixture(autouse=True)
def always_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.retrieval.versions.TRUSTED_SECONDS", 0.0)


async def test_a_version_that_others_dropped_and_built_again_is_opened_anew(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    """Under the same id, but its vectors are elsewhere: what is open is not they."""
    board, shelf = Board(), Shelf(tmp_path, embedder)
    async with Versions.open(board, shelf.openers(), RetrievalSettings()) as versions:
        async with versions.current():
            assert shelf.open == {embedder.name}
            (old,) = board.listed
            board.listed = [Listed(recipe=old.recipe, space="anew", state=old.state)]
            async with versions.current():
                assert shelf.open == {embedder.name, "anew"}
        assert shelf.open == {"anew"}
    assert shelf.open == set()


async def test_a_version_that_is_dropped_is_no_more_to_be_had(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    board, shelf = Board(), Shelf(tmp_path, embedder)
    async with Versions.open(board, shelf.openers(), RetrievalSettings()) as versions:
        current = await versions.current_id()
        board.listed[0].state.dropping = True
        with pytest.raises(VersionGone):
            async with versions.using(current):
                pass
        with pytest.raises(VersionGone):
            async with versions.using("another"):
                pass


async def test_what_was_known_is_searched_while_the_registry_is_away(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    board, shelf = Board(), Shelf(tmp_path, embedder)
    async with Versions.open(board, shelf.openers(), RetrievalSettings()) as versions:
        board.away = True
        with pytest.raises(Unavailable):
            await versions.current_id()
        board.away = False
        current = await versions.current_id()
        board.away = True
        assert await versions.current_id() == current


async def test_a_version_of_another_model_than_its_embedder_is_now_is_not_searched(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    board, shelf = Board(), Shelf(tmp_path, embedder)
    async with Versions.open(board, shelf.openers(), RetrievalSettings()) as versions:
        await versions.current_id()
        board.listed[0] = Listed(
            recipe=Recipe(
                embedder_url="wordllama://",
                embedder="an older one",
                dimension=embedder.dimension,
                chunk_characters=1000,
                chunk_overlap=200,
            ),
            space="older",
            state=board.listed[0].state,
        )
        with pytest.raises(VersionUnusable, match="another model"):
            async with versions.current():
                pass
    assert shelf.open == set()


async def test_settings_that_describe_another_version_than_is_searched_are_told_of_once(
    tmp_path: Path, embedder: CountingEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    board, shelf = Board(), Shelf(tmp_path, embedder)
    for settings in (RetrievalSettings(), RetrievalSettings(chunk_characters=500)):
        assert "but" not in caplog.text
        async with Versions.open(board, shelf.openers(), settings) as versions:
            for _ in range(2):
                assert await versions.current_id() == board.listed[0].state.version_id
    assert caplog.text.count("is searched: build and switch") == 1
