"""An emulator of Pinecone: the control plane, vectors in memory, embeddings, and faults by plan.

Similarities, filters and namespaces are real; records live as long as the process. All indexes are
served at one address, each under a path of its own, which `describe` gives as its host. What goes
wrong is said over HTTP, while it runs:

    PUT    /plan      {"lag": 0.5, "rules": [{"fault": "reset", "share": 0.4, "seed": 7}]}
    GET    /requests  what came, and the connections that are open
    DELETE /plan, DELETE /requests

The fields of a rule are those of `pinecone_plan.Rule`. By itself: `maieutic emulate pinecone`, or
`python -m tests.emulators.pinecone`, with --host, --port and --tls FOLDER.
"""

import asyncio
import socket
import ssl
import struct
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from numpy.typing import NDArray

from services.runtime.lifecycle import run
from tests.certificates import Authority
from tests.emulators.pinecone_plan import BadPlan, Rule, read_plan
from tests.emulators.pinecone_store import Index, Record, Refused, fits

REQUEST_BYTES = 2 * 1024 * 1024
MOST_RECORDS = 1000
MOST_MATCHES = 1000
PAGE = 100
MODELS = frozenset({"multilingual-e5-large", "llama-text-embed-v2"})
MOST_INPUTS = 96
OURS = frozenset({"/plan", "/requests"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request that came, and how it ended: a status, the name of a fault, or "left"."""

    method: str
    path: str
    end: str
    at: float
    """When it came, in seconds on the monotonic clock."""
    open: int
    """Connections that were open."""
    copy: int
    """How often the very same request had come before, since the plan was set."""


@dataclass(kw_only=True)
class Emulator:
    """A running emulator; what is done over HTTP may be done here, too."""

    url: str = ""
    authority: str = ""
    """The file of whom to trust, if it is served over TLS."""
    plan: list[Rule] = field(default_factory=list)
    lag: float = 0.0
    requests: list[Seen] = field(default_factory=list)
    indexes: dict[str, Index] = field(default_factory=dict)
    connections: Callable[[], int] = field(default=lambda: 0)
    """How many are open now."""
    waiting: int = 0
    """Requests that came and have not ended."""
    copies: Counter[bytes] = field(default_factory=Counter)

    def follow(self, plan: Sequence[Rule], *, lag: float = 0.0) -> None:
        """Spoil requests by this plan from now on, and begin a new log."""
        self.plan, self.lag = list(plan), lag
        self.copies.clear()
        self.requests.clear()

    def count(self, ending: str) -> int:
        """Return how many requests came whose path ends so."""
        return sum(1 for one in self.requests if one.path.endswith(ending))

    def ended(self, end: str) -> int:
        """Return how many requests ended so."""
        return sum(1 for one in self.requests if one.end == end)

    def peak(self) -> int:
        """Return the most connections that were open when a request came."""
        return max((one.open for one in self.requests), default=0)

    def index(self, name: str) -> Index:
        if name not in self.indexes:
            raise Refused(404, f"Resource {name} not found")
        index = self.indexes[name]
        index.lag = self.lag
        return index

    def described(self, name: str) -> dict[str, Any]:
        index = self.index(name)
        kind = {"type": "dense_vector", "dimension": index.dimension, "metric": index.metric}
        place = {"deployment_type": "managed", "cloud": "aws", "region": "us-east-1"}
        return {
            "name": name,
            "host": f"{self.url}/index/{name}",
            "schema": {"fields": {"_values": kind}},
            "deployment": {**place, "environment": "emulated"},
            "status": {"ready": True, "state": "Ready"},
            "deletion_protection": "disabled",
            "tags": {},
        }


@asynccontextmanager
async def pinecone_emulator(
    host: str = "127.0.0.1", port: int = 0, *, tls: Path | None = None
) -> AsyncIterator[Emulator]:
    """Serve during the block; port 0 takes a free one.

    Over TLS if *tls* is a folder: whom to trust is written there, into authority.pem.
    """
    emulator = Emulator()
    # Cancelled handlers are how the emulator notices at once that a client has left.
    runner = web.AppRunner(
        _application(emulator), handler_cancellation=True, access_log=None, shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        context = None
        if tls:
            authority = Authority(tls, "authority")
            emulator.authority, context = authority.file, _context(authority)
        await web.TCPSite(runner, host, port, ssl_context=context, backlog=1024).start()
        bound = runner.addresses[0][1]
        emulator.url = f"{'https' if tls else 'http'}://{host}:{bound}"
        server = runner.server
        emulator.connections = lambda: len(server.connections) if server else 0
        yield emulator
    finally:
        await runner.cleanup()


def _context(authority: Authority) -> ssl.SSLContext:
    certified = authority.certify("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified.certificate, certified.key)
    return context


async def serve(host: str, port: int, tls: Path | None = None) -> None:
    """Serve until cancelled, and say where; over TLS if *tls* is a folder."""
    async with pinecone_emulator(host, port, tls=tls) as emulator:
        print(f"ready {emulator.url}", flush=True)  # noqa: T201 - whoever started it waits for it
        await asyncio.Event().wait()


def _application(emulator: Emulator) -> web.Application:
    control, data, ours = _Control(emulator), _Data(emulator), _Ours(emulator)
    application = web.Application(
        client_max_size=REQUEST_BYTES, middlewares=[_Faults(emulator).middleware]
    )
    at = "/index/{name}"
    application.add_routes(
        [
            web.get("/indexes", control.listed),
            web.post("/indexes", control.create),
            web.get("/indexes/{name}", control.describe),
            web.delete("/indexes/{name}", control.delete),
            web.post("/embed", control.embed),
            web.post(f"{at}/vectors/upsert", data.upsert),
            web.post(f"{at}/vectors/delete", data.delete),
            web.get(f"{at}/vectors/fetch", data.fetch),
            web.post(f"{at}/vectors/fetch_by_metadata", data.fetch_by_metadata),
            web.get(f"{at}/vectors/list", data.listed),
            web.post(f"{at}/query", data.query),
            web.post(f"{at}/describe_index_stats", data.stats),
            web.get(f"{at}/namespaces", data.namespaces),
            web.put("/plan", ours.put_plan),
            web.delete("/plan", ours.delete_plan),
            web.get("/requests", ours.get_requests),
            web.delete("/requests", ours.delete_requests),
        ]
    )
    return application


class _Faults:
    """Lets the plan spoil requests, and keeps the log."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OURS:
            return await _answered(request, handler)
        emulator, at, body = self._emulator, time.monotonic(), await request.read()
        asked = b" ".join([request.method.encode(), request.path_qs.encode(), body])
        copy, open_ = emulator.copies[asked], emulator.connections()
        emulator.copies[asked] += 1
        rules = (rule for rule in emulator.plan if rule.applies(request.path, asked, copy))
        rule, end = next(rules, Rule()), "left"
        emulator.waiting += 1
        try:
            await asyncio.sleep(rule.delay)
            response = await self._spoilt(rule, request, handler)
            end = rule.fault if rule.fault and rule.fault != "status" else str(response.status)
        finally:
            emulator.waiting -= 1
            seen = Seen(
                method=request.method, path=request.path, end=end, at=at, open=open_, copy=copy
            )
            emulator.requests.append(seen)
        return response

    async def _spoilt(
        self, rule: Rule, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        if rule.fault == "status":
            return _error(rule.status, "the plan says so", rule.retry_after)
        if rule.fault in {"lose", "cut"}:
            response = await _answered(request, handler)
            if rule.fault == "cut":
                await _half(request, response)
            _end(request, reset=False)
            return response
        if rule.fault is not None:
            _end(request, reset=rule.fault == "reset")
            return web.Response()
        return await _answered(request, handler)


class _Control:
    """The control plane and inference."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def listed(self, request: web.Request) -> web.Response:
        names = self._emulator.indexes
        return web.json_response({"indexes": [self._emulator.described(name) for name in names]})

    async def create(self, request: web.Request) -> web.Response:
        wanted = await request.json()
        name, (kind, *_) = wanted["name"], wanted["schema"]["fields"].values()
        if name in self._emulator.indexes:
            raise Refused(409, f"Resource {name} already exists")
        self._emulator.indexes[name] = Index(
            name=name, dimension=kind["dimension"], metric=kind["metric"]
        )
        return web.json_response(self._emulator.described(name), status=201)

    async def describe(self, request: web.Request) -> web.Response:
        return web.json_response(self._emulator.described(request.match_info["name"]))

    async def delete(self, request: web.Request) -> web.Response:
        self._emulator.index(request.match_info["name"])
        del self._emulator.indexes[request.match_info["name"]]
        return web.Response(status=202)

    async def embed(self, request: web.Request) -> web.Response:
        """Answer with vectors that depend on the texts and on what they are for."""
        wanted = await request.json()
        inputs, parameters = wanted["inputs"], wanted.get("parameters", {})
        if wanted["model"] not in MODELS:
            raise Refused(404, f"Model {wanted['model']} not found")
        if not 0 < len(inputs) <= MOST_INPUTS:
            raise Refused(400, f"Number of inputs must be between 1 and {MOST_INPUTS}")
        if parameters.get("input_type") not in ("query", "passage"):
            raise Refused(400, "Parameter input_type is missing: query or passage")
        dimension, kind = int(parameters.get("dimension", 1024)), parameters["input_type"]
        data = [
            {"vector_type": "dense", "values": _embedding(one["text"], kind, dimension)}
            for one in inputs
        ]
        usage = {"total_tokens": sum(len(one["text"].split()) for one in inputs)}
        answer = {"model": wanted["model"], "vector_type": "dense", "data": data, "usage": usage}
        return web.json_response(answer)


class _Data:
    """The data plane of every index."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def _index(self, request: web.Request) -> Index:
        return self._emulator.index(request.match_info["name"])

    async def upsert(self, request: web.Request) -> web.Response:
        body = await request.json()
        if len(body["vectors"]) > MOST_RECORDS:
            raise Refused(400, f"Cannot upsert more than {MOST_RECORDS} vectors at once")
        records = [
            Record(
                id=one["id"],
                values=np.asarray(one["values"], np.float32),
                metadata=one.get("metadata") or {},
            )
            for one in body["vectors"]
        ]
        written = self._index(request).write(body.get("namespace", ""), records)
        headers = {"x-pinecone-request-lsn": str(written)}
        return web.json_response({"upsertedCount": len(records)}, headers=headers)

    async def delete(self, request: web.Request) -> web.Response:
        body = await request.json()
        if "ids" not in body:
            raise Refused(400, "Serverless indexes delete by ids only")
        self._index(request).delete(body.get("namespace", ""), body["ids"])
        return web.json_response({})

    async def fetch(self, request: web.Request) -> web.Response:
        namespace = request.query.get("namespace", "")
        records = self._index(request).read(namespace)
        found = [records[id_] for id_ in request.query.getall("ids", []) if id_ in records]
        return web.json_response(_fetched(found, namespace))

    async def fetch_by_metadata(self, request: web.Request) -> web.Response:
        body = await request.json()
        namespace, limit = body.get("namespace", ""), body.get("limit", PAGE)
        records = self._index(request).read(namespace)
        fit = [one for one in records.values() if fits(body["filter"], one.metadata)]
        start = int(body.get("paginationToken") or 0)
        answer = _fetched(fit[start : start + limit], namespace)
        if start + limit < len(fit):
            answer["pagination"] = {"next": str(start + limit)}
        return web.json_response(answer)

    async def listed(self, request: web.Request) -> web.Response:
        query = request.query
        namespace, limit = query.get("namespace", ""), int(query.get("limit", PAGE))
        after = query.get("paginationToken", "")
        ids = sorted(self._index(request).read(namespace))
        wanted = (id_ for id_ in ids if id_.startswith(query.get("prefix", "")) and id_ > after)
        page = list(islice(wanted, limit + 1))
        answer: dict[str, Any] = {"vectors": [{"id": id_} for id_ in page[:limit]]}
        if len(page) > limit:
            answer["pagination"] = {"next": page[limit - 1]}
        return web.json_response({**answer, "namespace": namespace})

    async def query(self, request: web.Request) -> web.Response:
        body = await request.json()
        namespace, limit = body.get("namespace", ""), body["topK"]
        if body.get("includeMetadata") and limit > MOST_MATCHES:
            raise Refused(400, f"topK with metadata is at most {MOST_MATCHES}")
        index = self._index(request)
        found = index.nearest(namespace, body["vector"], body.get("filter"), limit)
        shown = [*(["values"] if body.get("includeValues") else [])]
        shown += ["metadata"] if body.get("includeMetadata") else []
        matches = [_match(record, score, shown) for record, score in found]
        answer = {"matches": matches, "namespace": namespace, "usage": {"readUnits": 1}}
        headers = {"x-pinecone-max-indexed-lsn": str(index.readable(namespace))}
        return web.json_response(answer, headers=headers)

    async def namespaces(self, request: web.Request) -> web.Response:
        index = self._index(request)
        counts = ((name, len(index.read(name))) for name in index.namespaces)
        shown = [{"name": name, "record_count": number} for name, number in counts]
        return web.json_response({"namespaces": shown})

    async def stats(self, request: web.Request) -> web.Response:
        index = self._index(request)
        counts = {name: len(index.read(name)) for name in index.namespaces}
        return web.json_response(
            {
                "namespaces": {name: {"vectorCount": number} for name, number in counts.items()},
                "dimension": index.dimension,
                "metric": index.metric,
                "indexFullness": 0,
                "totalVectorCount": sum(counts.values()),
            }
        )


class _Ours:
    """What Pinecone does not have."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    async def put_plan(self, request: web.Request) -> web.Response:
        value = await request.json()
        try:
            plan = read_plan(value)
        except BadPlan as error:
            return _error(400, str(error))
        self._emulator.follow(plan, lag=float(value.get("lag", 0)))
        return web.json_response({})

    async def delete_plan(self, request: web.Request) -> web.Response:
        self._emulator.follow([])
        return web.json_response({})

    async def get_requests(self, request: web.Request) -> web.Response:
        log = self._emulator.requests
        shown = [
            {"method": one.method, "path": one.path, "end": one.end, "copy": one.copy}
            for one in log
        ]
        open_ = self._emulator.connections()
        return web.json_response({"requests": shown, "total": len(log), "connections": open_})

    async def delete_requests(self, request: web.Request) -> web.Response:
        self._emulator.requests.clear()
        return web.json_response({})


async def _answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path not in OURS and not request.headers.get("Api-Key"):
        return _error(401, "Invalid API Key")
    try:
        return await handler(request)
    except Refused as refused:
        return _error(refused.status, str(refused))
    except web.HTTPException as error:
        return _error(error.status, error.reason)


async def _half(request: web.Request, response: web.StreamResponse) -> None:
    """Send half of the answer under the length of the whole."""
    body = response.body if isinstance(response, web.Response) else b""
    whole = body if isinstance(body, bytes) else b""
    cut = web.StreamResponse(headers={"Content-Type": "application/json"})
    cut.content_length = len(whole)
    await cut.prepare(request)
    await cut.write(whole[: len(whole) // 2])


def _end(request: web.Request, *, reset: bool) -> None:
    """End the connection, by FIN or by RST."""
    if (transport := request.transport) is None:
        return
    if reset:
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()


def _error(status: int, message: str, retry_after: float | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    body = {"status": status, "error": {"code": "EMULATED", "message": message}}
    return web.json_response(body, status=status, headers=headers)


def _fetched(records: Sequence[Record], namespace: str) -> dict[str, Any]:
    found = {one.id: one.shown() for one in records}
    return {"vectors": found, "namespace": namespace, "usage": {"readUnits": 1}}


def _match(record: Record, score: float, shown: Sequence[str]) -> Mapping[str, Any]:
    whole = record.shown()
    return {"id": record.id, "score": score, **{name: whole[name] for name in shown}}


def _embedding(text: str, kind: str, dimension: int) -> list[float]:
    """Return a vector by which texts are near that share words, more so of one kind."""
    vector = _drawn(kind, dimension)
    for word in text.lower().split():
        vector += 3 * _drawn(word.strip(".,?!"), dimension)
    values: list[float] = (vector / np.linalg.norm(vector)).tolist()
    return values


def _drawn(word: str, dimension: int) -> NDArray[np.float64]:
    seed = int.from_bytes(sha256(word.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).normal(size=dimension)


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = ArgumentParser(description="An emulator of Pinecone.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8091, help="0 takes a free one")
    parser.add_argument("--tls", type=Path, help="folder: authority.pem is written there")
    given = parser.parse_args()
    run(serve(given.host, given.port, given.tls))


if __name__ == "__main__":
    main()
