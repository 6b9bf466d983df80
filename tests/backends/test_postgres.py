import asyncpg

from tests.backends.postgres import PostgresServer, postgres


async def test_a_committed_row_outlives_a_kill() -> None:
    async with postgres() as server:
        await run(server, "CREATE TABLE kept (n int)")
        await run(server, "INSERT INTO kept VALUES (7)")
        await server.kill9()
        assert not server.running
        await server.start()
        assert await value(server, "SELECT n FROM kept") == 7
        await server.restart()
        assert await value(server, "SELECT n FROM kept") == 7


async def run(server: PostgresServer, sql: str) -> None:
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


async def value(server: PostgresServer, sql: str) -> object:
    connection = await asyncpg.connect(server.url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()
