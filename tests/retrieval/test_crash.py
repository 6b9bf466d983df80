"""The service as a process of its own, killed and started again."""

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import grpc

from maieutic.v1 import document_service_pb2 as pb
from services.runtime.channel import open_channel
from services.runtime.keyring import KeyRing
from tests.backends.process import Process, scratch_folder
from tests.backends.rabbitmq import RabbitNode
from tests.retrieval.archives import HeldArchive, held_archive, serving_archive
from tests.retrieval.corpus import descriptions
from tests.retrieval.running import User
from tests.stack import without_queues


class Deployment:
    """One process of the service, on an archive and a broker that outlive it."""

    def __init__(
        self, folder: Path, archive: HeldArchive, archive_address: str, bus_url: str, keys: KeyRing
    ) -> None:
        self._address = f"unix:{folder / 'retrieval'}"
        self._keys = keys
        self.archive = archive
        self.vectors = folder / "vectors"
        self.process = Process(
            [sys.executable, "-m", "services.retrieval.main"],
            log=folder / "retrieval.log",
            env={
                "MAIEUTIC_SERVER_LISTEN": self._address,
                "MAIEUTIC_ARCHIVE_ADDRESS": archive_address,
                "MAIEUTIC_BUS_URL": bus_url,
                "MAIEUTIC_INDEX_URL": f"local://{self.vectors}",
                "MAIEUTIC_INGEST_LEASE": "1",
                "MAIEUTIC_INGEST_SWEEP_INTERVAL": "0.2",
                "MAIEUTIC_INGEST_PAUSE": "0.1",
                "MAIEUTIC_INGEST_ATTEMPTS": "2",
                "MAIEUTIC_SIGNING_KEY": keys.private["retrieval"],
                "MAIEUTIC_PUBLIC_KEYS": json.dumps(keys.public),
            },
        )

    async def start(self) -> None:
        await self.process.started(self._answers)

    @asynccontextmanager
    async def user(self) -> AsyncIterator[User]:
        signer = self._keys.signer("gateway")
        async with open_channel(self._address, service="retrieval", signer=signer) as channel:
            yield User(channel, "acme", "ana")

    async def _answers(self) -> bool:
        async with grpc.aio.insecure_channel(self._address) as channel:
            try:
                await asyncio.wait_for(channel.channel_ready(), 1)
            except TimeoutError:
                return False
        return True


@asynccontextmanager
async def deployed(rabbit: RabbitNode) -> AsyncIterator[Deployment]:
    keys = KeyRing.generate(["gateway", "retrieval"])
    await without_queues(rabbit)
    with scratch_folder("retrieval") as folder:
        listen = f"unix:{folder / 'archive'}"
        async with (
            held_archive(folder) as archive,
            serving_archive(archive, listen, verifier=keys.verifier()) as running,
        ):
            deployment = Deployment(folder, archive, running.address, rabbit.url, keys)
            await deployment.start()
            try:
                yield deployment
            finally:
                # Lets the archive's own calls end, so that it can stop.
                archive.may_finish.set()
                await deployment.process.kill()


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
    async with deployed(rabbit_node) as deployment:
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
        async with asyncio.timeout(10):
            while not await deployment.archive.is_empty():
                await asyncio.sleep(0.05)
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
