"""The store of artifacts as the session service calls it, beside what the bus brings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from maieutic.archive.v1 import artifact_store_service_pb2 as pb
from maieutic.archive.v1.artifact_store_service_pb2_grpc import ArtifactStoreServiceStub
from services.persistence.artifact_ports import ArtifactLimits
from services.persistence.artifact_sweeper import ArtifactSweeper
from services.persistence.errors import ArchiveUnavailable
from services.persistence.settings import ArtifactOptions, PersistenceSettings
from services.runtime.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ServiceError,
    Unavailable,
    from_rpc,
)
from services.runtime.server import MEBIBYTE
from services.runtime.settings import BadSettings
from tests.contracts.archives import ArchiveHarness, sqlite_harness
from tests.persistence.office import Office, office
from tests.persistence.stories import TENANT, USER, Story, fact
from tests.waiting import wait_until

if TYPE_CHECKING:
    from maieutic.archive.v1.artifact_store_service_pb2_grpc import ArtifactStoreServiceAsyncStub


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[ArchiveHarness]:
    async with sqlite_harness(tmp_path) as opened:
        yield opened


@pytest.fixture
async def running(harness: ArchiveHarness) -> AsyncIterator[Office]:
    async with office(harness.archive) as opened:
        yield opened


@asynccontextmanager
async def store(
    running: Office, service: str = "session"
) -> AsyncIterator["ArtifactStoreServiceAsyncStub"]:
    async with running.channel(service) as channel:
        yield ArtifactStoreServiceStub(channel)


def request(story: Story, path: str = "a.py", **changes: Any) -> pb.PutArtifactRequest:
    made = pb.PutArtifactRequest(
        tenant=TENANT,
        user_id=USER,
        session_id=story.session_id,
        turn_id=story.turn_id(1),
        fence=1,
        path=path,
        media_type="text/x-python",
        content=b"pass",
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


async def refusal(call: Awaitable[Any]) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return from_rpc(raised.value)


async def test_a_file_lives_from_its_put_to_the_end_of_its_session(
    running: Office, harness: ArchiveHarness
) -> None:
    story = Story("ships")
    await running.publish(story.accepted())
    await wait_until(lambda: story.turn_id(1) in running.marks.accepted)
    content = bytes(range(256)) * 4096  # the most there may be
    async with store(running) as stub:
        put = await stub.PutArtifact(request(story, content=content))
        assert await stub.PutArtifact(request(story, content=content)) == put
        read = pb.GetStoredArtifactRequest(artifact_id=put.artifact.artifact_id, with_content=True)
        assert (await stub.GetStoredArtifact(read)).content == content
        listing = pb.ListStoredArtifactsRequest(session_id=story.session_id, limit=10)
        assert not (await stub.ListStoredArtifacts(listing)).artifacts

        finished = story.finished()
        finished.outcome.artifacts.append(put.artifact)
        await running.publish(finished)
        await wait_until(lambda: story.turn_id(1) in running.marks.turns)
        assert list((await stub.ListStoredArtifacts(listing)).artifacts) == [put.artifact]
        listing.after_create_time.CopyFrom(put.artifact.create_time)
        listing.after_artifact_id = put.artifact.artifact_id
        assert not (await stub.ListStoredArtifacts(listing)).artifacts

        await running.publish(story.deleted())

        async def gone() -> bool:
            return not await harness.rows("SELECT 1 FROM artifacts")

        await wait_until(gone)
        assert isinstance(await refusal(stub.GetStoredArtifact(read)), NotFound)


async def test_what_a_request_says_is_checked_field_by_field(
    running: Office, harness: ArchiveHarness
) -> None:
    story = Story("ships")
    await harness.archive.apply([fact(story.accepted())])
    wrong: dict[str, tuple[Any, ...]] = {
        "path": ("../x", "a\0b", "x" * 256),
        "media_type": ("", "text", "text/html; x=<script>", "a/" + "b" * 200),
        "content": (b"x" * (MEBIBYTE + 1),),
        "turn_id": ("", "short", "a b" * 20),
        "session_id": ("", "a" * 200),
    }
    async with store(running) as stub:
        for name, values in wrong.items():
            for value in values:
                asked = request(story)
                setattr(asked, name, value)
                error = await refusal(stub.PutArtifact(asked))
                assert isinstance(error, InvalidArgument)
                assert error.message.startswith(f"{name}:")
    assert not await harness.rows("SELECT 1 FROM artifacts")


async def test_only_services_have_access(running: Office) -> None:
    calls = (
        ("PutArtifact", request(Story("ships"))),
        ("GetStoredArtifact", pb.GetStoredArtifactRequest(artifact_id="a" * 48)),
        ("ListStoredArtifacts", pb.ListStoredArtifactsRequest(session_id="s" * 48, limit=1)),
    )
    async with store(running, "gateway") as stub:
        for name, asked in calls:
            assert isinstance(await refusal(getattr(stub, name)(asked)), PermissionDenied)


async def test_a_session_that_is_not_known_yet_is_worth_another_try(running: Office) -> None:
    async with store(running) as stub:
        error = await refusal(stub.PutArtifact(request(Story("unheard"))))
    assert isinstance(error, Unavailable)
    assert (error.reason, error.retry_after) == ("SESSION_NOT_YET_ARCHIVED", 1.0)


class AwayAtFirst:
    """Files whose database answers only the second time."""

    def __init__(self, harness: ArchiveHarness) -> None:
        self._archive = harness.archive
        self.sweeps: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._archive, name)

    async def sweep_artifacts(self, *, older_than: float, turns: int) -> int:
        if not self.sweeps:
            self.sweeps.append(-1)
            raise ArchiveUnavailable
        self.sweeps.append(await self._archive.sweep_artifacts(older_than=older_than, turns=turns))
        return self.sweeps[-1]


async def test_old_files_are_swept_again_after_the_database_was_away(
    harness: ArchiveHarness,
) -> None:
    story = Story("ships")
    await harness.archive.apply([fact(story.accepted()), fact(story.accepted(2))])
    async with office(harness.archive) as running, store(running) as stub:
        await stub.PutArtifact(request(story))
    await harness.archive.apply([fact(story.finished())])
    files = AwayAtFirst(harness)
    sweeper = ArtifactSweeper(files, ArtifactOptions(keep=0.0, interval=0.01))
    task = asyncio.create_task(sweeper.run())
    await wait_until(lambda: 1 in files.sweeps)
    task.cancel()
    assert not await harness.rows("SELECT 1 FROM artifacts")


@pytest.mark.parametrize("file_bytes", [0, MEBIBYTE + 1])
def test_a_file_larger_than_a_message_is_no_setting(file_bytes: int) -> None:
    limits = ArtifactLimits(file_bytes=file_bytes)
    with pytest.raises(BadSettings, match="MAIEUTIC_ARTIFACTS_LIMITS_FILE_BYTES"):
        PersistenceSettings(artifacts=ArtifactOptions(limits=limits))
