"""The proof of the chart and of compose.yaml that needs no cluster: what they make is run."""

import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import grpc
import pytest
import pytest_asyncio

from maieutic.v1.turn_service_pb2 import TURN_STATE_COMPLETED
from maieutic_client import Maieutic
from tests.backends.postgres import PostgresServer
from tests.backends.rabbitmq import RabbitNode
from tests.backends.redis import redis_server
from tests.certificates import Authority
from tests.conversation.texts import TEA
from tests.emulators.pinecone import pinecone_emulator
from tests.packaging.deployed import (
    Deployed,
    Render,
    by_name,
    deployed_by_chart,
    deployed_by_compose,
    hosts_of_chart,
    hosts_of_compose,
)
from tests.packaging.local import LocalDeployment, local_deployment
from tests.stack import without_queues
from tests.waiting import wait_until

PATIENCE = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Addresses of real, empty servers, as deployments name them."""

    redis: str
    rabbitmq: str
    postgres: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What a deployment starts, where its parts find each other, and its first API key."""

    parts: Sequence[Deployed]
    hosts: Mapping[str, Sequence[str]]
    key: str
    authority: str = ""
    """Certificate of whom callers trust; empty for plain text."""


@pytest_asyncio.fixture
async def stores(rabbit_node: RabbitNode, postgres_server: PostgresServer) -> AsyncIterator[Stores]:
    database = f"deployed_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres_server.url)
    try:
        await connection.execute(f"CREATE DATABASE {database}")
    finally:
        await connection.close()
    await without_queues(rabbit_node)
    async with redis_server(append_only=True) as redis:
        yield Stores(
            redis=redis.url,
            rabbitmq=rabbit_node.url,
            postgres=postgres_server.url_of(database),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a deployment is made with."""

    stores: Stores
    rendering: Render
    secrets_folder: Path
    folder: Path
    """Scratch, empty."""


@pytest.fixture
def machine(stores: Stores, rendering: Render, secrets_folder: Path, tmp_path: Path) -> Machine:
    return Machine(
        stores=stores, rendering=rendering, secrets_folder=secrets_folder, folder=tmp_path
    )


@asynccontextmanager
async def charted(machine: Machine) -> AsyncIterator[Deployment]:
    """The chart with its own values; only the stores are named."""
    yield from_chart(machine, {})


@asynccontextmanager
async def charted_as_in_production(machine: Machine) -> AsyncIterator[Deployment]:
    """The chart with TLS on every link, certificates on both sides inside, and Pinecone."""
    authority = Authority(machine.folder, "authority")
    pair = authority.certify("maieutic")
    files = {"tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.file}
    secret = {name: Path(file).read_text() for name, file in files.items()}
    existing = {"everybodys-tls": secret, "pinecone": {"api-key": "pc-key"}}
    async with pinecone_emulator() as pinecone:
        values = {
            "tls": {
                "internal": {"existingSecret": "everybodys-tls", "serverName": "localhost"},
                "public": {"existingSecret": "everybodys-tls"},
            },
            "retrieval": {
                "index": {"url": "pinecone://docs", "pinecone": {"existingSecret": "pinecone"}},
                "env": {"MAIEUTIC_PINECONE_CONTROL_HOST": pinecone.url},
            },
            # One lane answers; the default values have shown the others.
            "agents": {"lanes": {"analysis": None, "long": None}},
        }
        made = from_chart(machine, values, existing)
        yield replace(made, authority=secret["ca.crt"])
        assert pinecone.indexes.keys() == {"docs"}


def from_chart(
    machine: Machine,
    values: Mapping[str, object],
    existing: Mapping[str, Mapping[str, str]] | None = None,
) -> Deployment:
    stores = machine.stores
    urls = {
        "redis": {"url": stores.redis},
        "rabbitmq": {"url": stores.rabbitmq},
        "postgres": {"url": stores.postgres},
    }
    file = machine.folder / "values.json"
    file.write_text(json.dumps({"stores": urls, **values}))
    documents = machine.rendering("--values", file)
    keys = by_name(documents, "Secret")["rel-maieutic-api-keys"]["data"]
    return Deployment(
        parts=deployed_by_chart(documents, existing or {}),
        hosts=hosts_of_chart(documents),
        key=base64.b64decode(keys["admin-key"]).decode(),
    )


@asynccontextmanager
async def composed(machine: Machine) -> AsyncIterator[Deployment]:
    """compose.yaml with its own secrets, but for the URLs of its stores."""
    stores, secrets_folder = machine.stores, machine.secrets_folder
    urls = {
        "/run/secrets/redis-url": stores.redis,
        "/run/secrets/rabbitmq-url": stores.rabbitmq,
        "/run/secrets/postgres-url": stores.postgres,
    }
    parts = [
        replace(part, files={path: urls.get(path, text) for path, text in part.files.items()})
        for part in deployed_by_compose(secrets_folder)
    ]
    key = (secrets_folder / "admin-key").read_text().strip()
    yield Deployment(parts=parts, hosts=hosts_of_compose(parts), key=key)


@pytest.mark.parametrize("deployed", [charted, charted_as_in_production, composed])
async def test_what_is_deployed_starts_in_any_order_answers_archives_and_drains(
    deployed: Callable[[Machine], AbstractAsyncContextManager[Deployment]], machine: Machine
) -> None:
    async with (
        deployed(machine) as deployment,
        local_deployment(deployment.parts, deployment.hosts, machine.folder) as running,
    ):
        async with client_of(running, deployment) as client:
            turn_id = await one_cited_answer(client)
        await wait_until(lambda: is_archived(machine.stores, turn_id), PATIENCE, every=0.05)
        await running.drain()


def client_of(running: LocalDeployment, deployment: Deployment) -> Maieutic:
    credentials = None
    if deployment.authority:
        credentials = grpc.ssl_channel_credentials(deployment.authority.encode())
    return Maieutic.connect(
        f"127.0.0.1:{running.port('gateway')}", api_key=deployment.key, credentials=credentials
    )


async def one_cited_answer(client: Maieutic) -> str:
    """Have a turn that needs every service; returns its id."""
    document = (await client.documents.add("tea.md", TEA)).document
    session = await client.sessions.create(document_ids=[document.document_id])
    question = "At how many degrees is green tea brewed?"
    async with client.turns.stream(session.session_id, question, timeout=PATIENCE) as stream:
        outcome = await stream.result()
    assert outcome.state == TURN_STATE_COMPLETED
    assert "75 degrees" in outcome.text
    assert outcome.citations[0].document_id == document.document_id
    return stream.turn_id


async def is_archived(stores: Stores, turn_id: str) -> bool:
    connection = await asyncpg.connect(stores.postgres)
    try:
        query = "SELECT count(*) FROM turns WHERE turn_id = $1 AND state = 'COMPLETED'"
        return bool(await connection.fetchval(query, turn_id))
    finally:
        await connection.close()
