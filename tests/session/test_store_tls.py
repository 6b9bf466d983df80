"""The store over TLS: an authority of one's own, and a server that nobody vouches for."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from services.session.errors import ErrorType, StoreUnavailable
from tests.backends.process import free_ports, scratch_folder
from tests.backends.redis import RedisServer, redis_binary
from tests.backends.redis_cluster import asked
from tests.certificates import Authority
from tests.session.stored import count, counted, make, new_session, opened
from tests.waiting import wait_until


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureServer:
    """A cluster of one node, so that it can also be asked as a single server."""

    port: int
    authority: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def secure() -> AsyncIterator[SecureServer]:
    with scratch_folder("tls") as folder:
        authority = Authority(folder, "own")
        ours = authority.certify("localhost")
        port, tls_port, bus = free_ports(3)
        options = (
            *("--tls-port", str(tls_port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", ours.certificate, "--tls-key-file", ours.key),
            *("--tls-ca-cert-file", authority.file, "--tls-cluster", "yes"),
            *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
        )
        server = RedisServer(redis_binary(), folder, options=options, port=port)
        await server.start()
        try:
            await asked(port, "CLUSTER", "ADDSLOTSRANGE", 0, REDIS_CLUSTER_HASH_SLOTS - 1)

            async def serves() -> bool:
                return b"cluster_state:ok" in await asked(port, "CLUSTER", "INFO")

            await wait_until(serves)
            yield SecureServer(port=tls_port, authority=authority.file)
        finally:
            await server.kill9()


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
async def test_a_server_is_trusted_whose_authority_the_url_names(
    secure: SecureServer, scheme: str
) -> None:
    url = f"{scheme}://localhost:{secure.port}?ssl_ca_certs={secure.authority}"
    async with opened(url) as store:
        session_id = new_session()
        await store.transact(session_id, make(session_id))
        await asyncio.gather(*(store.transact(session_id, count(f"{n}")) for n in range(5)))
        assert await counted(store, session_id) == 5


@pytest.mark.parametrize("authority", ["another", "none"])
async def test_a_server_that_nobody_vouches_for_is_not_talked_to(
    secure: SecureServer, tmp_path: Path, authority: str
) -> None:
    options = ""
    if authority == "another":
        options = f"?ssl_ca_certs={Authority(tmp_path, 'another').file}"
    async with opened(f"rediss://localhost:{secure.port}{options}") as store:
        for call in (store.pressure, lambda: store.transact(new_session(), count("mine"))):
            # At once: waiting makes no certificate better.
            async with asyncio.timeout(4):
                with pytest.raises(StoreUnavailable, match="certificate is not trusted") as raised:
                    await call()
            assert raised.value.error_type is ErrorType.CONNECTION
            assert raised.value.retry_after == 30.0


async def test_a_name_that_is_not_the_servers_is_refused_unless_it_may_be_any(
    secure: SecureServer,
) -> None:
    other_name = f"rediss://127.1:{secure.port}?ssl_ca_certs={secure.authority}"
    async with opened(other_name) as store:
        with pytest.raises(StoreUnavailable, match="certificate is not trusted"):
            await store.pressure()
    async with opened(f"{other_name}&ssl_check_hostname=false") as store:
        assert (await store.pressure()).memory_share == 0
