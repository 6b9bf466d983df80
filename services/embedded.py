"""The whole backend in one process, without servers, keys or root: the second composition root.

The same five services as in a cluster, over unix sockets: a Valkey of its own, a bus in memory, an
archive in SQLite, local vectors, and a model that answers offline, or Claude where there is a key.
All state lives in one folder, so a restart, or a kill, loses nothing: the clock of unfinished work
runs what was accepted.
"""

import asyncio
import fcntl
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from services.agents.adapters.claude_options import ClaudeOptions
from services.agents.entry_points import ExtensionOptions
from services.agents.main import RunningAgents, agents_service, open_model
from services.agents.settings import AgentsSettings, ModelSettings
from services.gateway.adapters.key_file import KeyFile, ensure_key
from services.gateway.main import ADMIN, gateway_service
from services.gateway.settings import GatewaySettings
from services.persistence.adapters.archive import open_archive
from services.persistence.adapters.sqlite import sqlite_url
from services.persistence.main import persistence_service
from services.persistence.ports import Archive
from services.persistence.settings import PersistenceSettings
from services.retrieval.main import retrieval_service
from services.retrieval.settings import (
    ExpiryOptions,
    IngestOptions,
    PineconeOptions,
    RetrievalSettings,
)
from services.runtime.hosting import hosted
from services.runtime.keyring import KeyRing
from services.runtime.lifecycle import run
from services.runtime.logs import LogOptions
from services.runtime.memory import MemoryBus
from services.runtime.scraping import Endpoint, metrics_endpoint
from services.runtime.server import RunningServer, ServerOptions
from services.runtime.settings import PREFIX, load
from services.runtime.telemetry import TelemetryOptions
from services.runtime.topology import maieutic_topology
from services.session.adapters.private_valkey import private_valkey
from services.session.budget_defaults import BudgetDefaults
from services.session.lanes import TimeBudgets
from services.session.main import session_service
from services.session.settings import SessionSettings

SERVICES = ("gateway", "session", "retrieval", "agents", "persistence")
PINECONE_INDEX = "pinecone://maieutic"
SCOPE_CHARACTERS = 16
STOP_SECONDS = 2.0
"""Running turns are handed back after this; the next start runs them."""

T = TypeVar("T")


class HomeInUse(Exception):
    """Another process works in the same folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedSettings:
    """One process, one folder."""

    home: Path = Path("~/.maieutic")
    """Folder that keeps everything: sessions, archive, vectors, keys."""

    listen: str = "127.0.0.1:50051"
    """host:port of the public API; port 0 takes a free one."""

    lease: float = 5.0
    """Seconds after which a silent worker has lost its turn."""

    idle: float = 1800.0
    """Seconds without use after which a session leaves the live store for the archive alone."""

    max_attempts: int = 5
    """Attempts that a turn is given before it fails. One lost with a worker that ran other turns,
    too, does not count."""

    time_budget: TimeBudgets = field(default=TimeBudgets())
    """How long a turn of each lane may run if its request does not say."""

    budget: BudgetDefaults = field(default=BudgetDefaults())
    """What turns and sessions may consume if their requests do not say."""

    model: ModelSettings = field(default=ModelSettings())
    """Which model answers."""

    extensions: ExtensionOptions = field(default_factory=ExtensionOptions)
    """What is used of other packages."""

    index_url: str = ""
    """The vector index: empty is a folder in the home, pinecone://name an index at Pinecone."""

    embedder: str = "wordllama://"
    """What turns texts into vectors: wordllama://, onnx:///path or pinecone://model."""

    pinecone: PineconeOptions = field(default=PineconeOptions())
    """How Pinecone is reached."""

    telemetry: TelemetryOptions = field(
        default=TelemetryOptions(log=LogOptions(level="warning", form="console"))
    )
    """Where traces, metrics and logs go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A running backend."""

    address: str
    """Of the public API."""

    api_key: str
    key_file: Path


@asynccontextmanager
async def embedded(settings: EmbeddedSettings) -> AsyncIterator[Stack]:
    """Run the whole backend during the block. Raises HomeInUse."""
    home = settings.home.expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(home), tempfile.TemporaryDirectory(prefix="maieutic-") as sockets:
        wiring = _Wiring(settings, home, Path(sockets))
        async with AsyncExitStack() as stack:
            yield await wiring.start(stack)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Keep others out; the kernel lets go when this process ends, however it ends."""
    with (home / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = f"{home} is in use by another process: stop it, or set MAIEUTIC_HOME"
            raise HomeInUse(message) from error
        yield


class _Wiring:
    """Which service gets what."""

    def __init__(self, settings: EmbeddedSettings, home: Path, sockets: Path) -> None:
        self._settings = settings
        self._home = home
        self._sockets = sockets
        self._keys = KeyRing.generate(SERVICES)
        self._bus = MemoryBus(maieutic_topology())
        self._metrics: Endpoint | None = None

    async def start(self, stack: AsyncExitStack) -> Stack:
        """Start everything; the stack stops it in reverse.

        The archive confirms to the session service until it has stopped, so that one stops last.
        """
        redis_url = await stack.enter_async_context(private_valkey(self._home / "valkey"))
        await stack.enter_async_context(self._bus)
        url = sqlite_url(self._home / "archive.sqlite")
        archive = await stack.enter_async_context(open_archive(url))
        if listen := self._settings.telemetry.metrics_listen:
            self._metrics = await stack.enter_async_context(metrics_endpoint(listen))
        for name, service in (
            ("session", self._session(redis_url)),
            ("persistence", self._persistence(archive)),
            ("retrieval", self._retrieval()),
            ("agents", self._agents()),
        ):
            await self._hosted(stack, name, service)
        return await self._gateway(stack)

    async def _hosted(
        self, stack: AsyncExitStack, name: str, service: AbstractAsyncContextManager[T]
    ) -> T:
        readers = [self._metrics.reader()] if self._metrics else []
        # One page has the metrics of all: an address can be listened on once.
        options = replace(self._settings.telemetry, metrics_listen="")
        return await stack.enter_async_context(
            hosted(name, service, options, metric_readers=readers)
        )

    def _address(self, service: str) -> str:
        return f"unix:{self._sockets / service}"

    def _server(self, service: str) -> ServerOptions:
        return ServerOptions(listen=self._address(service))

    def _persistence(self, archive: Archive) -> AbstractAsyncContextManager[RunningServer]:
        settings = PersistenceSettings(
            server=replace(PersistenceSettings().server, listen=self._address("persistence")),
            session_address=self._address("session"),
        )
        return persistence_service(
            settings,
            archive=archive,
            bus=self._bus,
            signer=self._keys.signer("persistence"),
            verifier=self._keys.verifier(),
        )

    def _session(self, redis_url: str) -> AbstractAsyncContextManager[RunningServer]:
        return session_service(
            self._session_settings(redis_url),
            bus=self._bus,
            signer=self._keys.signer("session"),
            verifier=self._keys.verifier(),
        )

    def _session_settings(self, redis_url: str) -> SessionSettings:
        return SessionSettings(
            id_key=_secret(self._home / "id.key"),
            server=self._server("session"),
            redis_url=redis_url,
            archive_address=self._address("persistence"),
            lease=self._settings.lease,
            idle=self._settings.idle,
            max_attempts=self._settings.max_attempts,
            time_budget=self._settings.time_budget,
            budget=self._settings.budget,
        )

    def _retrieval(self) -> AbstractAsyncContextManager[RunningServer]:
        settings = RetrievalSettings(
            server=self._server("retrieval"),
            archive_address=self._address("persistence"),
            index_url=self._settings.index_url or f"local://{self._home / 'vectors'}",
            embedder=self._settings.embedder,
            pinecone=self._pinecone(),
            ingest=IngestOptions(lease=self._settings.lease),
            # On one's own machine nothing goes by itself.
            expiry=ExpiryOptions(user=0, document_set=0),
        )
        return retrieval_service(
            settings,
            bus=self._bus,
            signer=self._keys.signer("retrieval"),
            verifier=self._keys.verifier(),
        )

    def _pinecone(self) -> PineconeOptions:
        """Return how Pinecone is reached, with a scope of this home's own unless one is set."""
        options = self._settings.pinecone
        scope = options.scope or _secret(self._home / "pinecone.scope")[:SCOPE_CHARACTERS]
        return replace(options, scope=scope)

    @asynccontextmanager
    async def _agents(self) -> AsyncIterator[RunningAgents]:
        settings = AgentsSettings(
            server=self._server("agents"),
            session_address=self._address("session"),
            retrieval_address=self._address("retrieval"),
            grace=STOP_SECONDS,
            model=self._settings.model,
            extensions=self._settings.extensions,
        )
        signer = self._keys.signer("agents")
        async with (
            open_model(settings) as model,
            agents_service(settings, bus=self._bus, model=model, signer=signer) as running,
        ):
            yield running

    async def _gateway(self, stack: AsyncExitStack) -> Stack:
        key_file, keys = self._home / "api.key", self._home / "api-keys.jsonl"
        api_key = await asyncio.to_thread(ensure_key, keys, key_file, ADMIN)
        settings = GatewaySettings(
            server=ServerOptions(listen=self._settings.listen),
            session_address=self._address("session"),
            retrieval_address=self._address("retrieval"),
        )
        service = gateway_service(
            settings, keys=await KeyFile.open(keys), signer=self._keys.signer("gateway")
        )
        running = await self._hosted(stack, "gateway", service)
        return Stack(address=running.address, api_key=api_key, key_file=key_file)


def _secret(path: Path) -> str:
    """Return the secret in the file; makes it once, readable by its owner alone."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path.read_text()


def load_embedded(environ: Mapping[str, str] | None = None) -> EmbeddedSettings:
    """Read the environment; raises BadSettings.

    With a key of Anthropic's API, in our own variable or in ANTHROPIC_API_KEY, Claude answers,
    unless MAIEUTIC_MODEL_KIND says otherwise. ANTHROPIC_BASE_URL goes with ANTHROPIC_API_KEY,
    where our own variable does not name another address. With a key of Pinecone, in our own
    variable or in PINECONE_API_KEY, vectors are kept there, unless MAIEUTIC_INDEX_URL says
    otherwise.
    """
    environ = os.environ if environ is None else environ
    settings = load(EmbeddedSettings, environ=environ)
    model = replace(settings.model, claude=_anthropic(settings.model.claude, environ))
    if model.claude.api_key and not environ.get(f"{PREFIX}MODEL_KIND"):
        model = replace(model, kind="claude")
    pinecone = settings.pinecone
    pinecone = replace(pinecone, api_key=pinecone.api_key or environ.get("PINECONE_API_KEY", ""))
    index_url = settings.index_url or (PINECONE_INDEX if pinecone.api_key else "")
    return replace(settings, model=model, index_url=index_url, pinecone=pinecone)


def _anthropic(claude: ClaudeOptions, environ: Mapping[str, str]) -> ClaudeOptions:
    """Return the options with what the variables of Anthropic's own tools say."""
    key = environ.get("ANTHROPIC_API_KEY", "")
    if claude.api_key or not key:
        return claude
    given = environ.get("ANTHROPIC_BASE_URL", "")
    ours = environ.get(f"{PREFIX}MODEL_CLAUDE_BASE_URL", "")
    return replace(claude, api_key=key, base_url=ours or given or claude.base_url)


async def main(settings: EmbeddedSettings) -> None:
    """Serve until cancelled; the first line on standard output says where and with which key."""
    async with embedded(settings) as stack:
        print(  # noqa: T201 - whoever started this process waits for it
            f"ready {stack.address} {stack.key_file}", flush=True
        )
        await asyncio.Event().wait()


if __name__ == "__main__":
    run(main(load_embedded()))
