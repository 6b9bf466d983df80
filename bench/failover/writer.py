"""A caller who changes one session again and again, and knows what it was told."""

import asyncio
import secrets
import time
from uuid import uuid4

import grpc

from maieutic.v1.session_service_pb2 import RevisionMismatch
from services.runtime.errors import from_rpc
from tests.session.stack import User, detail

_PAUSE_SECONDS = 0.05
_BYTES = 8_000
"""Of each change, so that what waits for a replica soon is more than the system's buffers hold."""


class Writer:
    """Each change names the revision that the one before was answered with.

    So the service itself tells when an acknowledged change is gone: the revision is an older one.
    """

    def __init__(self, user: User, session_id: str, revision: int) -> None:
        self._user = user
        self.session_id = session_id
        self._told = [revision]
        self._heard = time.perf_counter()
        self.acknowledged = 0
        self.lost = 0
        """Changes that were acknowledged and are gone."""
        self.not_replicated = 0
        """Answers that a change was done, but not yet safe."""
        self.outage = 0.0
        """Longest time between two answers since `watch`, in seconds."""

    def watch(self) -> None:
        """Measure from now on."""
        self._heard, self.outage = time.perf_counter(), 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Write until stopped."""
        while not stop.is_set():
            await self._change(stop)

    async def _change(self, stop: asyncio.Event) -> None:
        request_id, metadata = uuid4().hex, {"filling": secrets.token_hex(_BYTES // 2)}
        while not stop.is_set():
            try:
                session = await self._user.update(
                    self.session_id, request_id, expected=self._told[-1], metadata=metadata
                )
            except grpc.aio.AioRpcError as error:
                reason = from_rpc(error).reason
                if reason == "REVISION_MISMATCH":
                    self._fall_back(detail(error, RevisionMismatch).current_revision)
                    return
                self.not_replicated += reason == "NOT_REPLICATED"
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            self._acknowledge(session.revision)
            return

    def _acknowledge(self, revision: int) -> None:
        now = time.perf_counter()
        self._told.append(revision)
        self.acknowledged += 1
        self.outage = max(self.outage, now - self._heard)
        self._heard = now

    def _fall_back(self, revision: int) -> None:
        """Count what is gone, and go on from what is there."""
        kept = [told for told in self._told if told <= revision]
        self.lost += len(self._told) - len(kept)
        self._told = [*kept, revision]
