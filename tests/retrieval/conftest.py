"""One embedder for all tests of a session, and a service for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from services.retrieval.adapters.wordllama import WordllamaEmbedder
from tests.retrieval.running import CountingEmbedder, Retrieval, running_retrieval


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def wordllama() -> AsyncIterator[WordllamaEmbedder]:
    async with WordllamaEmbedder.open() as embedder:
        yield embedder


@pytest_asyncio.fixture
async def embedder(wordllama: WordllamaEmbedder) -> CountingEmbedder:
    return CountingEmbedder(wordllama)


@pytest_asyncio.fixture
async def retrieval(tmp_path: Path, embedder: CountingEmbedder) -> AsyncIterator[Retrieval]:
    async with running_retrieval(tmp_path, embedder=embedder) as running:
        yield running
