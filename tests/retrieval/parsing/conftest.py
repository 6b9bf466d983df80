"""One parser for all tests, as a service has one for all documents."""

from collections.abc import AsyncIterator

import pytest_asyncio

from services.retrieval.parsing.parser import Parser
from services.retrieval.settings import ParsingOptions


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def parser() -> AsyncIterator[Parser]:
    async with Parser.open(ParsingOptions()) as opened:
        yield opened
