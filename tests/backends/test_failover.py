"""The replicated backends do what they are for: a replica follows a primary that is killed."""

from tests.backends.redis_cluster import asked, redis_cluster
from tests.backends.sentinel import watched_redis
from tests.waiting import wait_until


async def test_a_replica_of_the_cluster_follows_a_primary_that_is_killed() -> None:
    async with redis_cluster(replicas=1, node_timeout=0.5) as cluster:
        assert len(cluster.servers) == 6
        lost = await cluster.primary_of("{7}:s")
        heir = await cluster.replica_of(lost)
        await asked(lost.port, "SET", "{7}:s", "kept")
        await asked(lost.port, "WAIT", 1, 5000)
        await lost.kill9()

        async def followed() -> bool:
            return await cluster.primary_of("{7}:s") is heir

        await wait_until(followed, 30)
        await cluster.ready()
        assert await asked(heir.port, "GET", "{7}:s") == b"kept"


async def test_the_sentinels_name_another_primary_after_a_kill() -> None:
    async with watched_redis(down_after=0.5) as watched:
        lost = await watched.primary()
        await asked(lost.port, "SET", "k", "kept")
        await asked(lost.port, "WAIT", 1, 5000)
        await lost.kill9()

        async def followed() -> bool:
            return await watched.primary() is not lost

        await wait_until(followed, 30)
        assert await asked((await watched.primary()).port, "GET", "k") == b"kept"
