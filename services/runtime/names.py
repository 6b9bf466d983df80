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


SLOW_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
TOKENS = (1.0, 10.0, 100.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6)
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
BUS_FAILURES = Metric(
    name="maieutic.bus.publish.failures",
    unit="{message}",
    help="Publishes that were not confirmed, or had nowhere to go, by exchange and error",
)
PUBLISH = "publish {}"
"""Span of one publish until its confirm, by exchange."""
BUS_SYSTEM = "messaging.system"
BUS_DESTINATION = "messaging.destination.name"
BUS_ROUTING_KEY = "messaging.rabbitmq.destination.routing_key"
BUS_MESSAGE_ID = "messaging.message.id"
BUS_OPERATION = "messaging.operation.name"
BUS_OPERATION_TYPE = "messaging.operation.type"
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

# --- models -------------------------------------------------------------------------------------
CHAT = "chat {}"
"""Span of one call of a model, by the model."""
MODEL_OPERATION = "gen_ai.operation.name"
MODEL_PROVIDER = "gen_ai.provider.name"
MODEL_NAME = "gen_ai.response.model"
MODEL_AGENT = "gen_ai.agent.name"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - no secret
MODEL_DURATION = Metric(
    name="gen_ai.client.operation.duration",
    unit="s",
    help="Duration of calls of a model, to the last word, by model and error",
    buckets=SLOW_SECONDS,
)
MODEL_FIRST_TEXT = Metric(
    name="gen_ai.client.operation.time_to_first_chunk",
    unit="s",
    help="From the start of a call of a model to its first words",
    buckets=SLOW_SECONDS,
)
MODEL_TOKENS = Metric(
    name="gen_ai.client.token.usage",
    unit="{token}",
    help="Tokens of a call of a model, by model, agent and whether they were read or written",
    buckets=TOKENS,
)
MODEL_COST = Metric(
    name="maieutic.agents.model.cost",
    unit="{currency}",
    help="Cost of calls of models in the currency's unit, by model, agent and currency",
)
CURRENCY = "maieutic.currency"
MODEL_UNPRICED = Metric(
    name="maieutic.agents.model.unpriced",
    unit="{call}",
    help="Calls of models that have no price in the settings, by model and agent",
)

TOOL_DURATION = Metric(
    name="maieutic.agents.tool.duration",
    unit="s",
    help="Duration of tools that a model called, by tool and by whether they failed",
    buckets=FAST_SECONDS,
)
TOOL_NAME = "gen_ai.tool.name"
TOOL_OUTCOME = "maieutic.agents.tool.outcome"
CITATIONS = Metric(
    name="maieutic.agents.citations",
    unit="{citation}",
    help="Citations in answers, by whether a passage that was found supports them",
)
CITATION_OUTCOME = "maieutic.agents.citation.outcome"

# --- turns at the session service ---------------------------------------------------------------
TRANSACT = "session transaction"
"""Span of one change of a session, with everything that it had to start again for."""
SWEEP_TURN = "sweep turn"
"""Span of what the clock of unfinished work does with an overdue turn."""
DB_SYSTEM = "db.system.name"
DB_OPERATION = "db.operation.name"
CONFLICTS = "maieutic.session.conflicts"
"""How often a transaction was started again."""
CONFLICT_CAUSE = "maieutic.session.conflict.cause"
TURN_STATE = "maieutic.turn.state"
TURN_REASON = "maieutic.turn.reason"
FROM_WINDOW = "maieutic.messages.from_window"
"""How many messages a request loaded from the live session; on the spans of the calls that do."""
FROM_ARCHIVE = "maieutic.messages.from_archive"
STORE_OPERATION = "operation"
STORE_ERROR_TYPE = "error_type"
STORE_ERRORS = Metric(
    name="session.store.errors",
    unit="{error}",
    help="What went wrong with the live store, by what it was asked for and by type",
)
STORE_DURATION = Metric(
    name="maieutic.session.store.duration",
    unit="s",
    help="Duration of the live store's steps, waits and retries included, by operation",
    buckets=FAST_SECONDS,
)
STORE_LENT = Metric(
    name="maieutic.session.store.connections.used",
    unit="{connection}",
    help="Connections to the live store that are in use, each by one call",
)
STORE_WAITING = Metric(
    name="maieutic.session.store.connections.waiting",
    unit="{call}",
    help="Calls that wait for a connection to the live store",
)
SESSIONS_LIVE = Metric(
    name="maieutic.session.live", unit="{session}", help="Sessions in the live store"
)
SESSIONS_ACTIVE = Metric(
    name="maieutic.session.active",
    unit="{session}",
    help="Sessions in which a turn runs or waits",
)
SESSION_SIZE = Metric(
    name="maieutic.session.size",
    unit="By",
    help="Memory of a session in the live store with its window and notes: the average of some",
)
QUARANTINED = Metric(
    name="maieutic.session.quarantined",
    unit="{record}",
    help="Records of the live store that could not be read and were put aside",
)
DUE_AGE = Metric(
    name="maieutic.session.due.age",
    unit="s",
    help="For how long the oldest work that is due has been due, over all shards; 0 if none is",
)
STORE_CONFLICTS = Metric(
    name="maieutic.session.store.conflicts",
    unit="{conflict}",
    help="Transactions tried again, by operation and cause: a conflict, or a link was lost",
)
STORE_BREAKER = Metric(
    name="maieutic.session.store.breaker",
    unit="{change}",
    help="Times that calls to a server of the live store began to be refused, or were let through",
)
BREAKER_CHANGE = "maieutic.session.store.breaker.change"
TURNS_ENDED = Metric(
    name="maieutic.turns.ended", unit="{turn}", help="Turns that have an outcome, by it"
)
TURN_DURATION = Metric(
    name="maieutic.turn.duration",
    unit="s",
    help="From a turn's acceptance to its outcome",
    buckets=SLOW_SECONDS,
)
QUEUE_WAIT = Metric(
    name="maieutic.turn.queue.wait",
    unit="s",
    help="From a turn's acceptance to its first claim by a worker",
    buckets=FAST_SECONDS,
)
STREAM_GAPS = Metric(
    name="maieutic.turn.stream.gaps",
    unit="{gap}",
    help="Gaps that watchers of turns were told of, by whether text is missing",
)
TEXT_INCOMPLETE = "maieutic.turn.text.incomplete"
SESSION_STREAM_GAPS = Metric(
    name="maieutic.session.stream.gaps",
    unit="{gap}",
    help="Gaps that watchers of sessions were told of",
)
TURNS_SWEPT = Metric(
    name="maieutic.session.turns.swept",
    unit="{turn}",
    help="Overdue turns that the clock of unfinished work had to look at",
)
OLDEST_UNCONFIRMED = Metric(
    name="maieutic.session.unconfirmed.age",
    unit="s",
    help="For how long the oldest job has waited for the broker's confirm; 0 if none waits",
)
STORE_MEMORY = Metric(
    name="maieutic.session.store.memory.share",
    unit="1",
    help="Share of the live store's memory limit that is in use; 0 without a limit",
)
ORPHANS_LOOKED_AT = Metric(
    name="maieutic.session.orphans.looked_at",
    unit="{key}",
    help="Keys of the live store looked at in the search for what crashes left behind",
)
ORPHANS_REMOVED = Metric(
    name="maieutic.session.orphans.removed",
    unit="{orphan}",
    help="What crashes left behind in the live store, removed or given back, by kind",
)
ORPHANS_STEP = Metric(
    name="maieutic.session.orphans.step.duration",
    unit="s",
    help="Duration of a step of that search",
    buckets=FAST_SECONDS,
)
ORPHANS_ROUND = Metric(
    name="maieutic.session.orphans.round.end",
    unit="s",
    help="When all keys had been looked at last, in seconds since 1970; 0 before the first time",
)
ORPHAN_KIND = "maieutic.session.orphan.kind"

# --- the archive --------------------------------------------------------------------------------
ARCHIVE_BATCH = "archive batch"
"""Span of one batch, linked to the spans that published its messages."""
ARCHIVE_FACT = "archive {}"
"""Span of one message, in its own trace, until it is answered; linked to its batch."""
ARCHIVE_TRANSACTION = "archive transaction"
"""Span of one transaction of the database, from its connection to the commit."""
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
DEAD_LETTERS = Metric(
    name="maieutic.archive.dead_letters",
    unit="{letter}",
    help="Dead letters taken into the archive, by the queue that they were in",
)
REDRIVEN_DEAD_LETTERS = Metric(
    name="maieutic.archive.dead_letters.redriven",
    unit="{letter}",
    help="Dead letters published again, by the queue that they were in",
)

# --- documents ----------------------------------------------------------------------------------
INGEST_DOCUMENT = "ingest document"
"""Span of bringing the index to what the registry says of a document."""
DOCUMENT = "maieutic.document"
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
EMBEDDER_CACHE = Metric(
    name="maieutic.retrieval.query.cache",
    unit="{query}",
    help="Queries to be embedded, by whether their vector was kept",
)
EMBEDDER_CACHE_OUTCOME = "maieutic.retrieval.query.cache.outcome"
DOCUMENTS_STORED = Metric(
    name="maieutic.retrieval.documents.stored",
    unit="{document}",
    help="Documents that somebody refers to, of all tenants",
)
DOCUMENTS_ACTIVE = Metric(
    name="maieutic.retrieval.documents.active",
    unit="{document}",
    help="Documents that were used within a day",
)
DOCUMENTS_FAILED = Metric(
    name="maieutic.retrieval.documents.failed",
    unit="{document}",
    help="Documents that cannot be indexed",
)
DOCUMENT_BYTES = Metric(
    name="maieutic.retrieval.documents.volume", unit="By", help="Size of all documents"
)
DOCUMENT_SIZE = Metric(
    name="maieutic.retrieval.documents.size", unit="By", help="Average size of a document"
)
CHUNKS_STORED = Metric(
    name="maieutic.retrieval.chunks.stored", unit="{chunk}", help="Chunks of all documents"
)
BYTES_SAVED = Metric(
    name="maieutic.retrieval.saved.volume",
    unit="By",
    help="What would be stored besides if each owner had copies",
)
EMBEDDINGS_SAVED = Metric(
    name="maieutic.retrieval.saved.embeddings",
    unit="{chunk}",
    help="What would be embedded besides if each owner and each document had its own chunks",
)
INDEX_ATTEMPTS = Metric(
    name="maieutic.retrieval.index.attempts",
    unit="{attempt}",
    help="Attempts at the vector index, by operation, outcome and number of the attempt",
)
INDEX_CALL = "vector index {}"
"""Span of one attempt at a vector index over the network, by operation."""
INDEX_OPERATION = "maieutic.retrieval.index.operation"
INDEX_OUTCOME = "maieutic.retrieval.index.outcome"
INDEX_ATTEMPT = "maieutic.retrieval.index.attempt"
