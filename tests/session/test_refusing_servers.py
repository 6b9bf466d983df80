"""What servers refuse while they change their part: it passes, and nothing is written twice."""

import asyncio
from collections.abc import Collection, Sequence

import psutil
import pytest
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, ResponseError

from services.session.adapters import keys
from services.session.adapters.breaker import Breaker
from services.session.adapters.dialing import Patience
from services.session.adapters.link import Link
from services.session.adapters.links import Links
from services.session.adapters.passing import NotAsked
from services.session.adapters.topologies import servers_at
from services.session.adapters.transaction import Transaction
from services.session.adapters.wake import RedisWakes
from services.session.errors import ErrorType, StoreUnavailable
from services.session.model import Draft
from services.session.ports import Reads
from tests.backends.redis import valkey
from tests.backends.redis_cluster import RedisCluster, asked
from tests.backends.sentinel import WatchedRedis
from tests.session.stored import back, count, counted, make, new_session, opened
from tests.waiting import wait_until

PATIENT = 30.0


class Refusals:
    """Counts the attempts at a change, and ends what is in its way after some of them."""

    def __init__(self, end: Sequence[str | int], port: int) -> None:
        self._end = end
        self._port = port
        self.attempts = 0

    async def __call__(self, _: Draft) -> None:
        self.attempts += 1
        if self.attempts == 3:
            assert await asked(self._port, *self._end) == b"OK"


async def test_a_change_waits_while_its_server_is_a_replica() -> None:
    async with valkey() as server, opened(server.url, PATIENT) as store:
        session_id = new_session()
        await store.transact(session_id, make(session_id))
        refusals = Refusals(("REPLICAOF", "NO", "ONE"), server.port)
        await asked(server.port, "REPLICAOF", "127.0.0.1", 1)
        await store.transact(session_id, count("mine"), Reads(), refusals)
        assert refusals.attempts >= 3
        assert await counted(store, session_id) == 1


async def test_a_change_waits_while_the_cluster_serves_nobody(small_cluster: RedisCluster) -> None:
    session_id = new_session()
    record = keys.record_key(session_id)
    primary = await small_cluster.primary_of(record)
    own = key_slot(record.encode())
    beside = own + 1 if await small_cluster.primary_of_slot(own + 1) is primary else own - 1
    async with opened(small_cluster.url, PATIENT) as store:
        await store.transact(session_id, make(session_id))
        # A slot that nobody has: then a node refuses all of them.
        await asked(primary.port, "CLUSTER", "DELSLOTS", beside)
        try:
            with pytest.raises(ClusterDownError):
                await asked(primary.port, "GET", record)
            change = asyncio.create_task(store.transact(session_id, count("mine")))
            read = asyncio.create_task(store.session(session_id))
            await asyncio.sleep(0.1)
            assert not change.done()
            assert not read.done()
        finally:
            await asked(primary.port, "CLUSTER", "ADDSLOTS", beside)
        await asyncio.gather(change, read)
        assert await counted(store, session_id) == 1
    await small_cluster.ready()


async def test_a_cluster_that_serves_nobody_for_long_is_unavailable_and_then_refused_at_once(
    small_cluster: RedisCluster,
) -> None:
    session_id = new_session()
    record = keys.record_key(session_id)
    primary = await small_cluster.primary_of(record)
    own = key_slot(record.encode())
    beside = own + 1 if await small_cluster.primary_of_slot(own + 1) is primary else own - 1
    async with opened(small_cluster.url, timeout=0.3) as store:
        await store.transact(session_id, make(session_id))
        await asked(primary.port, "CLUSTER", "DELSLOTS", beside)
        try:
            causes: set[type[BaseException | None]] = set()
            while NotAsked not in causes:
                with pytest.raises(StoreUnavailable) as raised:
                    await store.transact(session_id, count("mine"))
                causes.add(type(raised.value.__cause__))
        finally:
            await asked(primary.port, "CLUSTER", "ADDSLOTS", beside)
        await back(store)
        await small_cluster.ready()
        assert await counted(store, session_id) == 0


class Script(asyncio.Transport):
    """A server that answers whatever it is asked with what it was told to say."""

    def __init__(self, link: Link, says: bytes) -> None:
        super().__init__()
        self._link = link
        self._says = says

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._link.data_received(self._says)

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        self._link.connection_lost(None)


def scripted(says: bytes) -> Links:
    async def open_(_: object) -> Link:
        link = Link(timeout=5)
        link.connection_made(Script(link, says))
        return link

    return Links(open_, Breaker("script", 5), connections=1, wait=1)


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (b"READONLY You can't write against a read only replica.", ReadOnlyError),
        (b"CLUSTERDOWN The cluster is down", ClusterDownError),
        (b"OOM command not allowed when used memory > 'maxmemory'.", OutOfMemoryError),
    ],
)
async def test_why_exec_itself_was_refused_is_what_is_raised(
    reason: bytes, error: type[ResponseError]
) -> None:
    """Nothing was refused before: the server changed its part in the middle."""
    abort = b"-EXECABORT Transaction discarded because of: " + reason
    links = scripted(b"+OK\r\n+QUEUED\r\n" + abort + b"\r\n")
    with pytest.raises(error):
        async with Transaction(links, "k") as transaction:
            await transaction.commit([("SET", "k", "v")])


async def test_every_server_is_asked_as_the_user_of_the_url(
    small_cluster: RedisCluster, watched_primary: WatchedRedis
) -> None:
    guards = [guard.port for guard in watched_primary.sentinels]
    nodes = [server.port for server in small_cluster.servers]
    watched = [server.port for server in watched_primary.servers]
    for port in (*guards, *nodes, *watched):
        await asked(port, "ACL", "SETUSER", "ann", "on", ">p@ss", "~*", "&*", "+@all")
    cluster = small_cluster.url.replace("://", "://ann:p%40ss@")
    sentinel = watched_primary.url.replace("://", "://ann:p%40ss@")
    for url in (cluster, f"{sentinel}?sentinel_username=ann&sentinel_password=p%40ss"):
        async with servers_at(url, patience=Patience(), connections=1) as servers:
            assert {name for (name,) in await servers.ask_all([("ACL", "WHOAMI")])} == {b"ann"}
        wrong = url.replace("p%40ss@", "wrong@")
        async with opened(wrong) as store, asyncio.timeout(4):
            for call in (store.pressure, lambda: store.transact(new_session(), count("mine"))):
                with pytest.raises(StoreUnavailable) as raised:
                    await call()
                assert raised.value.error_type is ErrorType.PERMISSION


@pytest.fixture(params=["small_cluster", "watched_primary"])
def site(request: pytest.FixtureRequest) -> RedisCluster | WatchedRedis:
    found: RedisCluster | WatchedRedis = request.getfixturevalue(request.param)
    return found


async def test_no_connection_is_left_behind(site: RedisCluster | WatchedRedis) -> None:
    servers = [*site.servers, *getattr(site, "sentinels", [])]
    ports = {server.port for server in servers}
    assert links_to(ports) == 0
    async with opened(site.url) as store, RedisWakes.connect(store.servers):
        some = [new_session() for _ in range(20)]
        await asyncio.gather(*map(store.session, some))
        await asyncio.gather(*(store.transact(each, lambda _: None) for each in some))
        assert links_to(ports) > 0
    await wait_until(lambda: links_to(ports) == 0)


def links_to(ports: Collection[int]) -> int:
    """Return how many connections of this process lead to one of the ports."""
    links = psutil.Process().net_connections(kind="tcp")
    return sum(bool(link.raddr) and link.raddr.port in ports for link in links)
