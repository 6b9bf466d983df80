"""What the store's URL says: which servers there are, and how to be let in."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

FORMS = (
    "redis://[user:password@]host:port/database, unix:///path?db=database, "
    "redis+sentinel://host:port,host:port/service/database, redis+cluster://host:port,host:port; "
    "over TLS rediss://, rediss+sentinel://, rediss+cluster://"
)
_HOST_PORT, _SENTINEL_PORT = 6379, 26379
_CHECKS = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}
_TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"}
)
_SENTINEL_OPTIONS = frozenset({"sentinel_username", "sentinel_password"})


class BadStoreUrl(ValueError):
    """The URL cannot be used; says what is wrong and how to put it right, without its secrets."""


class Kind(Enum):
    """How the server that takes writes is found."""

    SINGLE = "redis"
    SENTINEL = "redis+sentinel"
    CLUSTER = "redis+cluster"


class Place(NamedTuple):
    """Where a server listens."""

    host: str
    """With port 0 the path of a unix socket."""
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to be let in by a server."""

    username: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreAddress:
    """One store, whatever it is made of."""

    kind: Kind
    places: tuple[Place, ...]
    """The server, the Sentinels, or some nodes of the cluster."""
    access: Access
    service: str = ""
    """What the Sentinels call the primary."""
    sentinel_access: Access = Access()


def parse_address(url: str) -> StoreAddress:
    """Return what the URL says; raises BadStoreUrl."""
    try:
        parts = _parts(url)
        options = dict(
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        )
    except ValueError:
        raise BadStoreUrl(f"is not a URL: write one of {FORMS}") from None
    if parts.scheme == "unix":
        return _unix(parts, options)
    kind, secure = _kind(parts.scheme)
    _refuse_unknown(options, kind, secure=secure)
    tls = _tls(options) if secure else None
    username, password, hosts = _split(parts.netloc)
    service, database = _path(parts.path, kind)
    database = options.get("db", database)
    places = _places(hosts, kind)
    return StoreAddress(
        kind=kind,
        places=places,
        service=service,
        access=Access(
            username=username, password=password, database=_database(database, kind), tls=tls
        ),
        sentinel_access=Access(
            username=options.get("sentinel_username", ""),
            password=options.get("sentinel_password", ""),
            tls=tls,
        ),
    )


def _parts(url: str) -> SplitResult:
    """Return the parts of the URL (RFC 3986); what it does not have is empty.

    From some of its versions on, Python's own reading refuses several hosts of which one is an
    address in brackets.
    """
    # A secret's file often ends with a line break.
    place, _, query = url.strip().partition("#")[0].partition("?")
    scheme, colon, rest = place.partition(":")
    if not colon:
        return SplitResult("", "", place, query, "")
    netloc = rest[2:].partition("/")[0] if rest.startswith("//") else ""
    path = rest.removeprefix(f"//{netloc}")
    return SplitResult(scheme.lower(), netloc, path, query, "")


def _unix(parts: SplitResult, options: Mapping[str, str]) -> StoreAddress:
    username, password, host = _split(parts.netloc)
    path = unquote(parts.path)
    if host or not path:
        raise BadStoreUrl("names no socket: write unix:///path/of/the.sock?db=0")
    _refuse_unknown(options, Kind.SINGLE, secure=False)
    database = _database(options.get("db", ""), Kind.SINGLE)
    access = Access(username=username, password=password, database=database)
    return StoreAddress(kind=Kind.SINGLE, places=(Place(path, 0),), access=access)


def _kind(scheme: str) -> tuple[Kind, bool]:
    secure = scheme.startswith("rediss")
    try:
        return Kind(scheme.replace("rediss", "redis", 1)), secure
    except ValueError:
        raise BadStoreUrl(f"has an unknown scheme: write one of {FORMS}") from None


def _refuse_unknown(options: Mapping[str, str], kind: Kind, *, secure: bool) -> None:
    known = {"db"}
    if kind is Kind.SENTINEL:
        known |= _SENTINEL_OPTIONS
    if secure:
        known |= _TLS_OPTIONS
    for name in options:
        if name in _TLS_OPTIONS and not secure:
            raise BadStoreUrl(f"has {name}, which needs TLS: write rediss instead of redis")
        if name not in known:
            raise BadStoreUrl(
                f"has an unknown option {name!r}: there are {', '.join(sorted(known))}"
            )


def _split(netloc: str) -> tuple[str, str, str]:
    """Return user, password and hosts."""
    credentials, _, hosts = netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    return unquote(username), unquote(password), hosts


def _path(path: str, kind: Kind) -> tuple[str, str]:
    """Return the Sentinels' service and the database."""
    words = [unquote(word) for word in path.strip("/").split("/")]
    service = words.pop(0) if kind is Kind.SENTINEL else ""
    if kind is Kind.SENTINEL and not service:
        raise BadStoreUrl(
            "does not name the Sentinels' service: write "
            "redis+sentinel://host:26379,host:26379/service/database"
        )
    if len(words) > 1:
        raise BadStoreUrl("has a path that is too long: it ends with the number of the database")
    return service, words[0] if words else ""


def _places(hosts: str, kind: Kind) -> tuple[Place, ...]:
    port = _SENTINEL_PORT if kind is Kind.SENTINEL else _HOST_PORT
    places = tuple(_place(host, port) for host in hosts.split(","))
    if kind is Kind.SINGLE and len(places) > 1:
        raise BadStoreUrl("names several hosts: that needs redis+sentinel:// or redis+cluster://")
    return places


def _place(text: str, port: int) -> Place:
    try:
        parts = urlsplit(f"//{text}")
        place = Place(unquote(parts.hostname or ""), parts.port or port)
    except ValueError:
        place = Place("", 0)
    if not place.host:
        raise BadStoreUrl(
            "names a host that cannot be read: write host:port, and percent-encode what is special "
            "in a password"
        )
    return place


def _database(text: str, kind: Kind) -> int:
    if not text:
        return 0
    if not text.isdecimal():
        raise BadStoreUrl("has a database that is no number: write 0, or leave it out")
    if kind is Kind.CLUSTER and int(text):
        raise BadStoreUrl("has a database, but a cluster has only number 0: leave it out")
    return int(text)


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    check = options.get("ssl_cert_reqs", "required")
    if check not in _CHECKS:
        raise BadStoreUrl(f"has a wrong ssl_cert_reqs: write one of {', '.join(_CHECKS)}")
    names = options.get("ssl_check_hostname", "true").lower() in ("true", "1", "yes")
    authority, certificate = options.get("ssl_ca_certs"), options.get("ssl_certfile")
    try:
        context = ssl.create_default_context(cafile=authority)
        if certificate:
            context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    except OSError as error:  # of which an SSLError is one
        problem = f"{type(error).__name__}: {error.strerror or error}"
        raise BadStoreUrl(f"has TLS files that cannot be used ({problem})") from error
    context.check_hostname = names and check != "none"
    context.verify_mode = _CHECKS[check]
    return context
