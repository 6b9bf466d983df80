"""The emulator of Pinecone, as its SDK sees it, and as a process of its own."""

import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pinecone import ApiError, AsyncIndex, AsyncPinecone, NotFoundError, RetryConfig

from tests.backends.process import Process
from tests.emulators.pinecone import Emulator, pinecone_emulator

FIELD = {"type": "dense_vector", "dimension": 2, "metric": "cosine"}
PLACE = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}
CITIES: list[dict[str, Any]] = [
    {"id": "rome", "values": [1, 0], "metadata": {"land": "it", "size": 2.8, "on": ["tiber"]}},
    {"id": "pisa", "values": [1, 1], "metadata": {"land": "it", "size": 0.1, "on": ["arno"]}},
    {"id": "bonn", "values": [-1, 0.2], "metadata": {"land": "de", "size": 0.3}},
]


@asynccontextmanager
async def cities_at(url: str, **client: Any) -> AsyncIterator[AsyncIndex]:
    retry = RetryConfig(max_retries=0)
    async with AsyncPinecone("a key", host=url, retry_config=retry, **client) as control:
        await control.indexes.create(
            name="cities", schema={"fields": {"_values": FIELD}}, deployment=PLACE, timeout=-1
        )
        async with await control.index(name="cities") as index:
            await index.upsert(vectors=CITIES, namespace="europe")
            yield index


@pytest_asyncio.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with pinecone_emulator() as emulator:
        yield emulator


@pytest_asyncio.fixture
async def cities(emulator: Emulator) -> AsyncIterator[AsyncIndex]:
    async with cities_at(emulator.url) as index:
        yield index


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, ["rome", "pisa", "bonn"]),
        ({"land": "it"}, ["rome", "pisa"]),
        ({"land": {"$ne": "it"}}, ["bonn"]),
        ({"land": {"$in": ["de", "fr"]}}, ["bonn"]),
        ({"land": {"$nin": ["de"]}}, ["rome", "pisa"]),
        ({"size": {"$gte": 0.3, "$lt": 2}}, ["bonn"]),
        ({"on": "arno"}, ["pisa"]),
        ({"on": {"$exists": False}}, ["bonn"]),
        ({"$or": [{"size": {"$gt": 2}}, {"land": "de"}]}, ["rome", "bonn"]),
        ({"$and": [{"size": {"$lte": 2.8}}, {"on": "tiber"}]}, ["rome"]),
    ],
)
async def test_a_query_finds_the_nearest_that_pass_its_filter(
    cities: AsyncIndex, wanted: dict[str, Any] | None, found: list[str]
) -> None:
    answer = await cities.query(vector=[1, 0.1], top_k=5, namespace="europe", filter=wanted)
    assert [match.id for match in answer.matches] == found
    assert [match.score for match in answer.matches] == sorted(
        (match.score for match in answer.matches), reverse=True
    )


async def test_records_are_fetched_listed_counted_and_deleted(cities: AsyncIndex) -> None:
    fetched = await cities.fetch(ids=["rome", "oslo"], namespace="europe")
    assert list(fetched.vectors) == ["rome"]
    assert fetched.vectors["rome"].values == [1, 0]
    page = await cities.fetch_by_metadata(filter={"land": "it"}, namespace="europe", limit=1)
    assert page.pagination
    listed = cities.list(namespace="europe", prefix="", limit=2)
    assert [[one.id for one in page.vectors] async for page in listed] == [
        ["bonn", "pisa"],
        ["rome"],
    ]
    await cities.delete(ids=["rome"], namespace="europe")
    stats = await cities.describe_index_stats()
    assert (stats.dimension, stats.total_vector_count) == (2, 2)
    assert not (await cities.query(vector=[1, 0], top_k=1, namespace="asia")).matches
    with pytest.raises(NotFoundError, match="Namespace"):
        await cities.delete(ids=["rome"], namespace="asia")


async def test_a_write_is_seen_when_its_place_in_the_log_is_reached(
    emulator: Emulator, cities: AsyncIndex
) -> None:
    emulator.follow([], lag=0.2)
    written = (await cities.upsert(vectors=CITIES[:1], namespace="late")).response_info
    assert written
    assert written.lsn_committed
    reached: list[bool] = []
    while not any(reached):
        answer = await cities.query(vector=[1, 0], top_k=1, namespace="late")
        assert answer.response_info
        reached.append(answer.response_info.is_reconciled(written.lsn_committed))
        assert bool(answer.matches) is reached[-1]
    assert not reached[0]


async def test_equal_texts_are_embedded_equally(emulator: Emulator) -> None:
    async with AsyncPinecone("a key", host=emulator.url) as control:
        embedded = await control.inference.embed(
            model="multilingual-e5-large",
            inputs=["sea", "sky", "sea"],
            parameters={"input_type": "passage", "dimension": 8},
        )
    first, other, again = (list(one["values"]) for one in embedded)
    assert first == again != other
    assert len(first) == 8


@pytest.mark.parametrize("rules", [[{"fault": "quake"}], [{"speed": 1}], "all", [3]])
async def test_a_plan_that_cannot_be_read_is_refused(emulator: Emulator, rules: object) -> None:
    async with httpx.AsyncClient(base_url=emulator.url) as http:
        answer = await http.put("/plan", json={"rules": rules})
        assert answer.status_code == 400
        assert "is" in answer.json()["error"]["message"]


async def test_it_runs_by_itself_over_tls_and_takes_its_plan_over_http(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = ["-m", "tests.emulators.pinecone", "--port", "0", "--tls", str(tmp_path)]
    process = Process([sys.executable, *arguments], log=log, env={})

    async def ready() -> bool:
        return "ready https://" in log.read_text()

    await process.started(ready)
    try:
        (url,) = (line.split()[1] for line in log.read_text().splitlines() if "ready" in line)
        trusted = ssl.create_default_context(cafile=tmp_path / "authority.pem")
        async with (
            cities_at(url, ssl_ca_certs=str(tmp_path / "authority.pem")) as index,
            httpx.AsyncClient(base_url=url, verify=trusted) as http,
        ):
            rule = {"path": "/query", "fault": "status", "status": 418, "times": 1}
            (await http.put("/plan", json={"rules": [rule]})).raise_for_status()
            with pytest.raises(ApiError, match="418"):
                await index.query(vector=[1, 0], top_k=3, namespace="europe")
            assert (await index.query(vector=[1, 0], top_k=3, namespace="europe")).matches
            seen = (await http.get("/requests")).json()
            assert [(one["path"], one["end"]) for one in seen["requests"]] == [
                ("/index/cities/query", "418"),
                ("/index/cities/query", "200"),
            ]
            assert (await http.delete("/plan")).is_success
    finally:
        await process.kill()
