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
from tests.fakes.archive import DocumentArchive, serving_archive
from tests.retrieval.corpus import descriptions
from tests.retrieval.running import User


class Deployment:
    """One process of the service, on an archive that outlives it."""

    def __init__(self, folder: Path, archive_address: str, keys: KeyRing) -> None:
        self._address = f"unix:{folder / 'retrieval'}"
        self._keys = keys
        self.vectors = folder / "vectors"
        self.process = Process(
            [sys.executable, "-m", "services.retrieval.main"],
            log=folder / "retrieval.log",
            env={
                "MAIEUTIC_SERVER_LISTEN": self._address,
                "MAIEUTIC_ARCHIVE_ADDRESS": archive_address,
                "MAIEUTIC_INDEX_URL": f"local://{self.vectors}",
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
async def deployed(archive: DocumentArchive) -> AsyncIterator[Deployment]:
    keys = KeyRing.generate(["gateway", "retrieval"])
    with scratch_folder("retrieval") as folder:
        listen = f"unix:{folder / 'archive'}"
        async with serving_archive(archive, listen, verifier=keys.verifier()) as running:
            deployment = Deployment(folder, running.address, keys)
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


async def test_a_document_whose_adding_was_killed_is_completed_by_adding_it_again() -> None:
    """Killed when all is indexed but the archive has not been told: nothing is embedded twice."""
    archive, (text, *_) = DocumentArchive(), descriptions(1).values()
    archive.may_finish.clear()
    async with deployed(archive) as deployment:
        async with deployment.user() as user:
            adding = asyncio.create_task(user.add(text))
            await archive.finishing.wait()
            await deployment.process.kill()
            await asyncio.wait([adding])
            assert adding.exception()
        (left,) = archive.documents.values()
        assert left.state == pb.DOCUMENT_STATE_PENDING
        chunks, links = stored(deployment.vectors)
        assert chunks
        archive.may_finish.set()
        await deployment.start()
        async with deployment.user() as user:
            again = await user.add(text)
            found = await user.search("what is it for", limit=50)
        await deployment.process.stop()
        assert again.document.state == pb.DOCUMENT_STATE_READY
        assert again.document.chunk_count == links
        assert (again.chunks_embedded, again.chunks_reused) == (0, links)
        assert stored(deployment.vectors) == (chunks, links)
        assert len(found) == min(50, chunks)


async def test_what_was_answered_is_found_after_a_kill() -> None:
    archive, texts = DocumentArchive(), descriptions(5)
    async with deployed(archive) as deployment:
        async with deployment.user() as user:
            for name, text in texts.items():
                await user.add(text, name=name)
            before = await user.search("how do I install it", limit=50)
        await deployment.process.kill()
        await deployment.start()
        async with deployment.user() as user:
            assert await user.search("how do I install it", limit=50) == before
            again = [await user.add(text, name=name) for name, text in texts.items()]
    assert before
    assert not any(one.chunks_embedded for one in again)


async def test_the_process_ends_by_itself_when_asked() -> None:
    async with deployed(DocumentArchive()) as deployment:
        async with deployment.user() as user:
            await user.add("Some text.")
        await deployment.process.stop()
        assert not list(deployment.vectors.glob("*-wal"))
