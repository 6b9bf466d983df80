"""The service as a process of its own, which is killed and started again."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from services.runtime.channel import open_channel
from services.runtime.keyring import KeyRing
from tests.backends.process import Process, scratch_folder
from tests.backends.rabbitmq import RabbitNode
from tests.retrieval.archives import HeldArchive, held_archive, serving_archive
from tests.retrieval.running import User
from tests.stack import without_queues


class Deployment:
    """One process of the service, on an archive and a broker that outlive it."""

    def __init__(
        self, folder: Path, archive: HeldArchive, keys: KeyRing, settings: Mapping[str, str]
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
                "MAIEUTIC_INDEX_URL": f"local://{self.vectors}",
                "MAIEUTIC_INGEST_LEASE": "1",
                "MAIEUTIC_INGEST_SWEEP_INTERVAL": "0.2",
                "MAIEUTIC_INGEST_PAUSE": "0.1",
                "MAIEUTIC_SIGNING_KEY": keys.private["retrieval"],
                "MAIEUTIC_PUBLIC_KEYS": json.dumps(keys.public),
                **settings,
            },
        )

    async def start(self) -> None:
        await self.process.started(self._answers)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        signer = self._keys.signer("gateway")
        async with open_channel(self._address, service="retrieval", signer=signer) as channel:
            yield channel

    @asynccontextmanager
    async def user(self) -> AsyncIterator[User]:
        async with self.channel() as channel:
            yield User(channel, "acme", "ana")

    async def _answers(self) -> bool:
        async with grpc.aio.insecure_channel(self._address) as channel:
            try:
                await asyncio.wait_for(channel.channel_ready(), 1)
            except TimeoutError:
                return False
        return True


@asynccontextmanager
async def deployed(rabbit: RabbitNode, *, attempts: int = 100) -> AsyncIterator[Deployment]:
    """Run the service; a document that is begun *attempts* times and never ends has failed."""
    keys = KeyRing.generate(["gateway", "retrieval"])
    await without_queues(rabbit)
    with scratch_folder("retrieval") as folder:
        listen = f"unix:{folder / 'archive'}"
        async with (
            held_archive(folder) as archive,
            serving_archive(archive, listen, verifier=keys.verifier()) as running,
        ):
            settings = {
                "MAIEUTIC_ARCHIVE_ADDRESS": running.address,
                "MAIEUTIC_BUS_URL": rabbit.url,
                "MAIEUTIC_INGEST_ATTEMPTS": str(attempts),
            }
            deployment = Deployment(folder, archive, keys, settings)
            await deployment.start()
            try:
                yield deployment
            finally:
                # Lets the archive's own calls end, so that it can stop.
                archive.may_finish.set()
                await deployment.process.kill()
