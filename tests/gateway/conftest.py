"""A gateway in front of fake services, for each test its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from maieutic_client import Maieutic
from tests.fakes.gateway import Stack, gateway_stack


@pytest_asyncio.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with gateway_stack(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def client(stack: Stack) -> AsyncIterator[Maieutic]:
    async with Maieutic.connect(stack.address, api_key=stack.key) as connected:
        yield connected
