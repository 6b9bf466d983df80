"""Limits of a tenant, documents that nobody uses, and counts of all."""

from pathlib import Path

from google.rpc.error_details_pb2 import QuotaFailure

from maieutic.v1 import document_service_pb2 as pb
from services.retrieval.settings import ExpiryOptions, LimitOptions
from services.runtime import names
from services.runtime.errors import ResourceExhausted
from tests.recorded import Recorded, recording, span_id
from tests.retrieval.running import CountingEmbedder, Retrieval, refusal_of, running_retrieval
from tests.waiting import wait_until

STORKS, OWLS = "Storks nest on chimneys.", "Owls hunt at night."


async def age(retrieval: Retrieval, days: float, owner: str) -> None:
    async with retrieval.archive.harness.database.writing() as connection:
        await connection.fetch(
            "UPDATE document_references SET last_used_time = now() - make_interval(secs => $1)"
            " WHERE owner = $2",
            days * 86_400.0,
            owner,
        )


async def test_a_limit_is_named_by_the_error_and_is_one_tenants(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    limits = LimitOptions(documents_per_tenant=1, bytes_per_tenant=100)
    async with running_retrieval(tmp_path, limits=limits, embedder=embedder) as retrieval:
        user = retrieval.user()
        one = (await user.add(STORKS)).document.document_id
        for call, limit in (
            (user.add(OWLS), "documents_per_tenant"),
            (user.replace(one, "x" * 101), "bytes_per_tenant"),
        ):
            refusal = await refusal_of(call)
            assert isinstance(refusal, ResourceExhausted)
            assert refusal.retry_after is None
            quota = QuotaFailure()
            assert any(detail.Unpack(quota) for detail in refusal.details())  # type: ignore[attr-defined]
            assert [violation.subject for violation in quota.violations] == [limit]
        await retrieval.user("ben").add(STORKS)
        await retrieval.user(tenant="other").add(OWLS)
        await user.delete(one)
        await retrieval.user("ben").delete(one)
        await user.add(OWLS)


async def test_a_dry_run_tells_what_a_cleanup_then_does(retrieval: Retrieval) -> None:
    ana, ben = retrieval.user("ana"), retrieval.user("ben")
    one, two = [(await ana.add(text)).document.document_id for text in (STORKS, OWLS)]
    await ben.add(OWLS)
    await ana.attach("brand-x", one)
    for owner in ("ana", "brand-x"):
        await age(retrieval, 8, owner)
    told = await ana.clean_up(dry_run=True)
    assert {(each.user_id, each.document_id) for each in told.expired} == {
        ("ana", one),
        ("ana", two),
    }
    assert (told.reference_count, told.removed_count) == (2, 0)
    assert len((await ana.page()).documents) == 2
    assert (await ana.clean_up()).reference_count == 2
    assert not (await ana.page()).documents
    assert (await ana.clean_up()).reference_count == 0
    assert len((await ben.page()).documents) == 1
    assert [each.document_id for each in (await ana.page(collection="brand-x")).documents] == [one]


async def test_what_is_searched_stays_and_what_is_not_goes_by_itself(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    expiry = ExpiryOptions(user=86_400.0, interval=0.1)
    async with running_retrieval(tmp_path, expiry=expiry, embedder=embedder) as retrieval:
        ana, ben = retrieval.user("ana"), retrieval.user("ben")
        used = (await ana.add(STORKS)).document.document_id
        await age(retrieval, 0.9, "ana")
        await ana.search("birds", document_ids=[used])
        unused = (await ben.add(OWLS)).document.document_id
        await age(retrieval, 2, "ben")

        async def is_gone() -> bool:
            return unused not in await retrieval.archive.states()

        await wait_until(is_gone)
        rows = await retrieval.archive.harness.rows(
            "SELECT owner FROM document_references"
            " WHERE last_used_time > now() - make_interval(secs => $1)",
            3600.0,
        )
        assert rows == [("ana",)]
        assert (await ana.get(used)).state == pb.DOCUMENT_STATE_READY


async def test_users_who_share_documents_cost_their_storage_once(
    retrieval: Retrieval, embedder: CountingEmbedder
) -> None:
    for number in range(5):
        user = retrieval.user(f"user-{number}")
        for text in (STORKS, OWLS):
            await user.add(text)
    totals = await retrieval.user().totals()
    assert (totals.documents, totals.references, totals.active) == (2, 10, 2)
    assert totals.bytes == len(STORKS) + len(OWLS)
    assert (totals.bytes_saved, totals.embeddings_saved) == (4 * totals.bytes, 8)
    assert len(embedder.texts) == totals.chunks == 2


async def test_an_upload_is_one_trace_to_the_index_and_documents_are_gauged(
    tmp_path: Path, embedder: CountingEmbedder
) -> None:
    expiry = ExpiryOptions(figures_interval=0.05)
    async with (
        recording() as recorded,
        running_retrieval(tmp_path, embedder=embedder, expiry=expiry) as retrieval,
    ):
        for user in ("ana", "ben"):
            await retrieval.user(user).add(STORKS)
        await wait_until(lambda: bool(recorded.points(names.BYTES_SAVED)))
        await wait_until(lambda: gauged(recorded, names.BYTES_SAVED) == len(STORKS))
        assert gauged(recorded, names.DOCUMENTS_STORED) == 1
        assert gauged(recorded, names.DOCUMENT_SIZE) == len(STORKS)
        assert gauged(recorded, names.EMBEDDINGS_SAVED) == 1
        by_id = {span_id(one): one for one in recorded.exporter.get_finished_spans()}
        (last,) = recorded.named("embed texts")
        for earlier in ("CONSUMER ingest document", "PRODUCER publish jobs"):
            assert last.parent is not None
            last = by_id[last.parent.span_id]
            assert f"{last.kind.name} {last.name}" == earlier


def gauged(recorded: Recorded, metric: names.Metric) -> float:
    (point,) = recorded.points(metric).values()
    value: float = point.value
    return value
