"""The client's spans, for a caller that has OpenTelemetry, and none for one that has not."""

import builtins
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from maieutic_client import Maieutic, NotFound
from services.runtime.server import ServerOptions, serving
from tests.client.conftest import EAGER, Served
from tests.fakes.conversations import Conversations
from tests.fakes.session_service import register_conversations
from tests.recorded import recording, span_id

STREAM = "maieutic.v1.TurnService/StreamTurn"
GET = "maieutic.v1.TurnService/GetTurn"
TEXT = "one two three"


@dataclass(frozen=True, kw_only=True)
class Traced:
    client: Maieutic
    session_id: str
    exporter: InMemorySpanExporter

    def spans(self) -> list[ReadableSpan]:
        """Return what has ended, in order."""
        return list(self.exporter.get_finished_spans())


def exporting() -> tuple[InMemorySpanExporter, TracerProvider]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter, provider


@pytest_asyncio.fixture
async def traced(served: Served) -> AsyncIterator[Traced]:
    exporter, provider = exporting()
    async with Maieutic.connect(
        served.server.address, api_key="mk_any", retry=EAGER, tracer_provider=provider
    ) as client:
        yield Traced(client=client, session_id=served.session_id, exporter=exporter)


async def test_a_call_is_a_span_that_the_service_continues() -> None:
    state = Conversations(owner=lambda: ("acme", "ann"))
    exporter, provider = exporting()
    async with (
        recording() as recorded,
        serving(ServerOptions(), register_conversations(state)) as server,
        Maieutic.connect(server.address, api_key="mk_any", tracer_provider=provider) as client,
    ):
        await client.sessions.create()
    (sent,) = exporter.get_finished_spans()
    (answered,) = recorded.exporter.get_finished_spans()
    assert (sent.name, sent.kind) == ("maieutic.v1.SessionService/CreateSession", SpanKind.CLIENT)
    assert answered.name == sent.name
    assert answered.parent is not None
    assert answered.parent.span_id == span_id(sent)


async def test_a_failed_call_is_a_failed_span_without_the_error_s_text(traced: Traced) -> None:
    with pytest.raises(NotFound):
        await traced.client.turns.get("a" * 48)
    (span,) = traced.spans()
    assert span.name == GET
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "NotFound")
    assert "a" * 48 not in span.to_json()


async def test_a_stream_is_one_span_until_its_outcome_however_often_it_breaks(
    served: Served, traced: Traced
) -> None:
    served.state.cuts = [1, 1]
    async with traced.client.turns.stream(traced.session_id, TEXT) as stream:
        await stream.result()
        (span,) = traced.spans()
    assert stream.connects == 3
    assert traced.spans() == [span]
    assert (span.name, span.status.status_code) == (STREAM, StatusCode.UNSET)


async def test_a_stream_that_is_left_ends_its_span(traced: Traced) -> None:
    async with traced.client.turns.stream(traced.session_id, TEXT) as stream:
        await anext(stream)
        assert traced.spans() == []
    (span,) = traced.spans()
    assert span.status.status_code is StatusCode.UNSET


async def test_a_stream_that_fails_is_a_failed_span(traced: Traced) -> None:
    with pytest.raises(NotFound):
        await anext(traced.client.turns.watch("a" * 48))
    (span,) = traced.spans()
    assert span.status.description == "NotFound"


async def test_without_opentelemetry_calls_are_made_all_the_same(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    async with Maieutic.connect(served.server.address, api_key="mk_any", retry=EAGER) as client:
        monkeypatch.setattr(builtins, "__import__", without)
        outcome = await client.turns.stream(served.session_id, TEXT).result()
    assert outcome.text.split() == TEXT.split()
