"""The service as a process of its own, killed and started again."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc

from maieutic.v1 import document_service_pb2 as pb, index_admin_service_pb2 as index_pb
from maieutic.v1.index_admin_service_pb2_grpc import IndexAdminServiceStub
from services.runtime.identity import acting_for
from tests.backends.rabbitmq import RabbitNode
from tests.retrieval.corpus import descriptions
from tests.retrieval.deployment import deployed
from tests.waiting import wait_until

SOON = 30.0


async def build(channel: grpc.aio.Channel) -> index_pb.IndexVersion:
    """Build a version of small chunks to its end."""
    request = index_pb.BuildIndexVersionRequest(chunk_characters=300, chunk_overlap=0)
    with acting_for("acme", "admin"):
        frames = IndexAdminServiceStub(channel).BuildIndexVersion(request, timeout=60)
        return [frame.version async for frame in frames][-1]


def stored(vectors: Path) -> tuple[int, int]:
    """Return how many chunks and how many links the index's file holds."""
    (file,) = vectors.glob("*.sqlite3")
    with closing(sqlite3.connect(file)) as database:
        (chunks,) = database.execute("SELECT count(*) FROM chunks").fetchone()
        (links,) = database.execute("SELECT count(*) FROM links").fetchone()
    return chunks, links


async def test_a_document_whose_indexing_was_killed_is_indexed_without_anybody_asking(
    rabbit_node: RabbitNode,
) -> None:
    """Killed when all is in the index, but not told to the archive: nothing is embedded twice."""
    (text, *_) = descriptions(1).values()
    async with deployed(rabbit_node) as deployment:
        deployment.archive.may_finish.clear()
        async with deployment.user() as user:
            document = (await user.add(text, accept_only=True)).document
            await deployment.archive.finishing.wait()
            await deployment.process.kill()
        assert await deployment.archive.states() == {document.document_id: "PENDING"}
        chunks, links = stored(deployment.vectors)
        assert chunks
        deployment.archive.may_finish.set()
        await deployment.start()
        async with deployment.user() as user:
            *_, ready = await user.watch(document.document_id)
            found = await user.search("what is it for", limit=50)
        await deployment.process.stop()
        assert ready.state == pb.DOCUMENT_STATE_READY
        assert (ready.chunk_count, ready.chunks_embedded) == (links, 0)
        assert stored(deployment.vectors) == (chunks, links)
        assert len(found) == min(50, chunks)


async def test_a_document_that_kills_each_process_is_failed_and_its_neighbours_are_not(
    rabbit_node: RabbitNode,
) -> None:
    (text, other, *_) = descriptions(2).values()
    async with deployed(rabbit_node, attempts=2) as deployment:
        deployment.archive.may_finish.clear()
        async with deployment.user() as user:
            document_id = (await user.add(text, accept_only=True)).document.document_id
        for _ in range(2):
            await deployment.archive.finishing.wait()
            await deployment.process.kill()
            deployment.archive.finishing.clear()
            await deployment.start()
        async with deployment.user() as user:
            *_, failed = await user.watch(document_id)
            assert failed.state == pb.DOCUMENT_STATE_FAILED
            assert "2 times" in failed.failure
            deployment.archive.may_finish.set()
            assert (await user.add(other)).document.state == pb.DOCUMENT_STATE_READY
            await user.delete(document_id)
            assert {one.document_id for one in await user.search("what")} != {document_id}


async def test_a_killed_removal_goes_on_and_leaves_no_vector(rabbit_node: RabbitNode) -> None:
    async with deployed(rabbit_node) as deployment:
        async with deployment.user() as user:
            ids = [(await user.add(text)).document.document_id for text in descriptions(4).values()]
            await asyncio.gather(*(user.delete(one) for one in ids))
            await deployment.process.kill()
        await deployment.start()
        await wait_until(deployment.archive.is_empty, SOON, every=0.05)
        await deployment.process.stop()
        assert stored(deployment.vectors) == (0, 0)


async def test_what_was_answered_is_found_after_a_kill(rabbit_node: RabbitNode) -> None:
    texts = descriptions(5)
    async with deployed(rabbit_node) as deployment:
        async with deployment.user() as user:
            for name, text in texts.items():
                await user.add(text, name=name)
            before = await user.search("how do I install it", limit=50)
        await deployment.process.kill()
        await deployment.start()
        async with deployment.user() as user:
            assert await user.search("how do I install it", limit=50) == before
            again = [await user.add(text, name=name) for name, text in texts.items()]
        await deployment.process.stop()
        # Asked to end, it leaves a file that is closed.
        assert not list(deployment.vectors.glob("*-wal"))
    assert before
    assert not any(one.chunks_embedded for one in again)


async def test_a_build_that_was_killed_goes_on_without_anybody_asking(
    rabbit_node: RabbitNode,
) -> None:
    texts = list(descriptions(3).values())
    async with deployed(rabbit_node) as deployment:
        async with deployment.user() as user:
            for text in texts:
                await user.add(text)
        deployment.archive.finishing.clear()
        deployment.archive.may_finish.clear()
        async with deployment.channel() as channel:
            building = asyncio.create_task(build(channel))
            await deployment.archive.finishing.wait()
            await deployment.process.kill()
            building.cancel()
            await asyncio.wait([building])
        deployment.archive.may_finish.set()
        await deployment.start()
        built = "SELECT version_id FROM document_indexes GROUP BY 1 HAVING count(*) = 3"

        async def complete() -> bool:
            return len(await deployment.archive.harness.rows(built)) == 2

        await wait_until(complete, SOON, every=0.05)
        async with deployment.channel() as channel, deployment.user() as user:
            second = await build(channel)
            with acting_for("acme", "admin"):
                request = index_pb.SwitchIndexVersionRequest(version_id=second.version_id)
                await IndexAdminServiceStub(channel).SwitchIndexVersion(request)

            async def small() -> bool:
                found = await user.search("what is it for", limit=50)
                return bool(found) and max(len(one.text) for one in found) <= 300

            await wait_until(small, SOON, every=0.05)
            assert (await user.check()).fault_count == 0
    assert (second.documents, second.building) == (3, False)
