"""What an operator can set for the retrieval service."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from services.runtime.channel import ChannelOptions
from services.runtime.server import ServerOptions
from services.runtime.telemetry import TelemetryOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class PineconeOptions:
    """Used when the index URL is pinecone://<name of the index>."""

    api_key: str = field(default="", repr=False)
    """The key of the Pinecone project."""

    host: str = ""
    """Where the index is served. Empty asks the control plane once, which makes the index if there
    is none."""

    control_host: str = "https://api.pinecone.io"
    """The control plane."""

    ca_file: str = ""
    """PEM file of the authorities to trust; empty trusts the public ones."""

    cloud: str = "aws"
    """Cloud of an index that is made."""

    region: str = "us-east-1"
    """Region of an index that is made."""

    ready: float = 120.0
    """Seconds to wait for a new index."""

    settled: float = 30.0
    """Seconds to wait until what was written can be searched."""

    scope: str = ""
    """Begins every namespace: keeps deployments apart that share an index."""

    connections: int = 10
    """Most connections at once; further operations wait their turn."""

    spares: int = 0
    """Connections that are made before they are needed, besides; each serves one attempt, or is
    dropped after 5 seconds. They save a search that comes alone the handshake."""

    attempts: int = 3
    """How often an operation is tried while the index answers with errors or too late."""

    reconnects: int = 10
    """How many lost connections and answers that turn it away (429, 503) an operation survives
    besides: they say nothing about the request, and to come again is cheap."""

    timeout: float = 10.0
    """Seconds of one attempt, never more than the caller has left."""

    backoff: float = 0.05
    """Longest wait before the first retry in seconds; doubles with each, and is drawn from 0."""

    longest_backoff: float = 2.0
    """Where that doubling ends."""

    longest_wait: float = 30.0
    """Longest wait that the index may ask for; an operation told to wait longer gives up."""

    tokens_a_minute: int = 1_000_000
    """Of texts to embed, about: Pinecone's limit for a project. 0 is no limit."""

    breaker_failures: int = 20
    """Failed attempts in a row after which the index is left alone."""

    breaker_pause: float = 5.0
    """Seconds for which it is left alone, before one operation may try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsingOptions:
    """What a document may be, and what it may cost to read.

    HTML, PDF and DOCX are parsed in processes of their own.
    """

    file_bytes: int = 32 * 2**20
    """Most bytes of a file."""

    pages: int = 2000
    """Most pages of a PDF."""

    text_bytes: int = 2 * 2**20
    """Most bytes of a document's text in UTF-8, however it is packed."""

    unpacked_bytes: int = 32 * 2**20
    """Most bytes to which the text parts of a DOCX unpack."""

    processes: int = 2
    """Documents that are parsed at once; further ones wait."""

    memory: int = 384
    """MiB of address space of a process that parses a document: what needs more is refused. Nothing
    holds it where the system knows no such limit, as on macOS."""

    seconds: int = 20
    """Processor time of such a process for one document; what takes more is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """How documents are brought into the index, apart from the calls that add them."""

    concurrency: int = 2
    """Documents that a process works on at once."""

    lease: float = 60.0
    """Seconds after which a silent worker has lost its document."""

    attempts: int = 5
    """How often a document is begun that never ends; then it has failed."""

    pause: float = 5.0
    """Seconds between two attempts."""

    sweep_interval: float = 5.0
    """Seconds between two looks for documents that nobody works on, on average."""

    batch_bytes: int = 262_144
    """Text whose vectors are made and stored together: what a killed process repeats at most."""

    drain: float = 5.0
    """Seconds that documents at hand may take once the service stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOptions:
    """How much a tenant may have; errors name the limit."""

    documents_per_tenant: int = 100_000
    """Documents, however many refer to each; 0: no limit."""

    bytes_per_tenant: int = 10 * 2**30
    """Bytes of their content; 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpiryOptions:
    """When documents are given up that nobody uses: searching and adding again is use."""

    user: float = 7 * 86_400.0
    """Seconds without use after which a user's document is given up; 0: never."""

    document_set: float = 30 * 86_400.0
    """The same for a set."""

    collection: float = 0.0
    """The same for a collection."""

    interval: float = 3600.0
    """Seconds between two cleanups, in which requests of over a day ago are forgotten, too; 0: only
    when an admin asks for one."""

    figures_interval: float = 60.0
    """Seconds between two counts of all documents, for metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSettings:
    """Where documents are indexed, and how they are cut."""

    server: ServerOptions = field(default=ServerOptions(listen="127.0.0.1:50053"))
    """The listener. A message must hold a document of 2 MiB."""

    archive_address: str = "127.0.0.1:50054"
    """The persistence service, which keeps the documents: host:port or dns:///name:port."""

    channel: ChannelOptions = field(default=ChannelOptions(max_message_bytes=40 * 2**20))
    """How the archive is called."""

    bus_url: str = field(default="amqp://guest:guest@127.0.0.1:5672/", repr=False)
    """RabbitMQ; several nodes are separated by commas."""

    ingest: IngestOptions = field(default=IngestOptions())
    """How documents are brought into the index, apart from the calls that add them."""

    limits: LimitOptions = field(default=LimitOptions())
    """How much a tenant may have."""

    expiry: ExpiryOptions = field(default=ExpiryOptions())
    """When documents are given up that nobody uses."""

    index_url: str = "local:///var/lib/maieutic/vectors"
    """The vector index: local:///path is a folder on this machine, for one process;
    pinecone://name is an index at Pinecone, for any number."""

    embedder: str = "wordllama://"
    """What turns texts into vectors: wordllama:// in this process, onnx:///path a folder with a
    sentence transformer (model.onnx and tokenizer.json; needs the package onnxruntime),
    pinecone://model a model of Pinecone's. It makes the first index version, and those that
    `maieutic index build` is told no other for."""

    query_cache: int = 8 * 2**20
    """Bytes for the vectors of queries that were asked before."""

    pinecone: PineconeOptions = field(default=PineconeOptions())
    """How Pinecone is reached."""

    parsing: ParsingOptions = field(default=ParsingOptions())
    """What documents are taken."""

    chunk_characters: int = 1000
    """Most characters of a chunk in the first index version, and in those built without a say."""

    chunk_overlap: int = 200
    """Most characters that neighbouring chunks share; less than a chunk has."""

    import_bytes: int = 128 * 2**20
    """Most bytes of an index version's file that is imported: it is kept in the system's temporary
    folder (TMPDIR) meanwhile, which must have the room."""

    signing_key: str = field(default="", repr=False)
    """Ed25519 private key in PEM, with which this service signs its calls."""

    public_keys: Mapping[str, str] = field(default_factory=dict)
    """Ed25519 public keys in PEM of the services that may call, by service name."""

    telemetry: TelemetryOptions = field(default=TelemetryOptions())
    """Where traces, metrics and logs go."""
