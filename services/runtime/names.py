"""Every metric, span and attribute name of the services, once.

gRPC, messaging and model names follow the OpenTelemetry semantic conventions; our own begin with
`maieutic.`. Attribute values come from small fixed sets, or from ids on spans; never user text.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric: durations in seconds ("s"), sizes in bytes ("By"), counts in "{thing}"."""

    name: str
    unit: str
    help: str
    buckets: tuple[float, ...] | None = None
    """Upper bounds, for histograms."""


FAST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# --- gRPC ---------------------------------------------------------------------------------------
RPC_SERVER_DURATION = Metric(
    name="rpc.server.call.duration",
    unit="s",
    help="Duration of calls served, by method and status",
    buckets=FAST_SECONDS,
)
RPC_CLIENT_DURATION = Metric(
    name="rpc.client.call.duration",
    unit="s",
    help="Duration of calls made, by method and status",
    buckets=FAST_SECONDS,
)
RPC_SERVER_ACTIVE = Metric(
    name="maieutic.rpc.server.active", unit="{call}", help="Calls running now, by method"
)
UNEXPECTED_ERRORS = Metric(
    name="maieutic.errors.unexpected",
    unit="{error}",
    help="Exceptions that no handler expected: each is a bug",
)
RPC_SYSTEM = "rpc.system.name"
RPC_METHOD = "rpc.method"
RPC_STATUS = "rpc.response.status_code"
PEER = "peer.service"
ERROR_TYPE = "error.type"

# --- whom a span is about -----------------------------------------------------------------------
SERVICE = "service.name"
TENANT = "maieutic.tenant"

# --- the bus ------------------------------------------------------------------------------------
BUS_PUBLISH_DURATION = Metric(
    name="messaging.client.operation.duration",
    unit="s",
    help="Duration of publishes until the broker's confirm or the end of patience, by exchange",
    buckets=FAST_SECONDS,
)
BUS_DELIVERED = Metric(
    name="messaging.client.consumed.messages",
    unit="{message}",
    help="Deliveries handed to a consumer, by queue and by whether they came before",
)
BUS_RETRIES = Metric(
    name="maieutic.bus.publish.retries",
    unit="{attempt}",
    help="Further attempts to publish a message, by cause: the link was lost, or it was refused",
)
BUS_DESTINATION = "messaging.destination.name"
BUS_OPERATION = "messaging.operation.name"
BUS_REDELIVERED = "maieutic.bus.redelivered"
BUS_RETRY_CAUSE = "maieutic.bus.retry.cause"

# --- turns at the workers -----------------------------------------------------------------------
RUN_TURN = "run turn"
"""Span of one attempt, from the job to the outcome's confirm."""
TURN = "maieutic.turn"
LANE = "maieutic.lane"
ACTIVE_TURNS = Metric(
    name="maieutic.agents.turns.active", unit="{turn}", help="Turns running now, by lane"
)

# --- the archive --------------------------------------------------------------------------------
ARCHIVE_BATCH = "archive batch"
"""Span of one batch, linked to the spans that published its messages."""
FACT_KIND = "maieutic.archive.kind"
BATCH_SIZE = "messaging.batch.message_count"
ARCHIVED_FACTS = Metric(
    name="maieutic.archive.facts", unit="{fact}", help="Facts committed to the archive, by kind"
)
DEAD_FACTS = Metric(
    name="maieutic.archive.facts.dead",
    unit="{fact}",
    help="Messages that the archive could not read or keep, and put to the dead letters",
)
ARCHIVE_COMMIT_DURATION = Metric(
    name="maieutic.archive.commit.duration",
    unit="s",
    help="Duration of commits of a batch, waiting for an absent database included",
    buckets=FAST_SECONDS,
)
LOST_TURNS = Metric(
    name="maieutic.archive.turns.lost",
    unit="{turn}",
    help="Turns that the live store had lost and the archive brought back",
)

# --- documents ----------------------------------------------------------------------------------
EMBED_TEXTS = "embed texts"
"""Span of turning texts, a query or chunks, into vectors."""
SEARCH_VECTORS = "search vectors"
"""Span of asking the vector index."""
TEXTS = "maieutic.retrieval.texts"
DOCUMENTS_SEARCHED = "maieutic.retrieval.documents"
CHUNKS_INDEXED = Metric(
    name="maieutic.retrieval.chunks",
    unit="{chunk}",
    help="Chunks of added documents, by whether they were embedded or had been stored before",
)
CHUNK_SOURCE = "maieutic.retrieval.chunk.source"
