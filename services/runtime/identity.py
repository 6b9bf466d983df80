"""Who is calling: short-lived tokens between services.

The gateway mints a token for each call (its own name, the tenant, the user); the service behind
verifies it and acts for that tenant and user, and passes them on with a token of its own.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from services.runtime.errors import Unauthenticated

METADATA_KEY = "authorization"
BEARER = "Bearer "
AUDIENCE = "maieutic"
ALGORITHM = "EdDSA"
LIFE_SECONDS = 60.0
RENEW_SECONDS = 20.0
"""A cached token with less life than this is not used again: its call may queue on the way."""
CLOCK_SKEW_SECONDS = 5.0
CACHED_TOKENS = 10_000


class BadKey(Exception):
    """A key that was configured is missing, or is not an Ed25519 key in PEM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The service that calls, and the tenant and user for whom; both empty for itself."""

    service: str
    tenant: str = ""
    user: str = ""


_caller: ContextVar[Identity | None] = ContextVar("maieutic_caller", default=None)
_acting: ContextVar[tuple[str, str]] = ContextVar("maieutic_acting", default=("", ""))


def current_identity() -> Identity:
    """Return who called the running RPC; raises Unauthenticated outside of one."""
    if (identity := _caller.get()) is None:
        message = "this call carries no identity"
        raise Unauthenticated(message)
    return identity


@contextmanager
def identified_as(identity: Identity) -> Iterator[None]:
    """Make *identity* the current one, for the block and the calls made in it."""
    token = _caller.set(identity)
    try:
        with acting_for(identity.tenant, identity.user):
            yield
    finally:
        _caller.reset(token)


@contextmanager
def acting_for(tenant: str, user: str) -> Iterator[None]:
    """Make the calls of the block for this tenant and user, as a worker does for its job's."""
    token = _acting.set((tenant, user))
    try:
        yield
    finally:
        _acting.reset(token)


def acting() -> tuple[str, str]:
    """Return the tenant and user that outgoing calls are for; both empty for the service itself."""
    return _acting.get()


class Signer:
    """Mints this service's tokens. *private_key* is an Ed25519 key in PEM, else BadKey."""

    def __init__(
        self,
        service: str,
        private_key: str | bytes,
        *,
        audience: str = AUDIENCE,
        life: float = LIFE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._private_key = private_key
        self._key = _private(service, private_key)
        self._audience = audience
        self._life = life
        self._clock = clock
        self._tokens: _Expiring[tuple[str, str], str] = _Expiring(clock)

    def for_audience(self, audience: str) -> Self:
        """Return a signer of the same key whose tokens hold for *audience*, and nobody else."""
        return type(self)(
            self._service,
            self._private_key,
            audience=audience,
            life=self._life,
            clock=self._clock,
        )

    def token(self, tenant: str, user: str) -> str:
        """Return a token for the tenant and user, a cached one while it has life enough."""
        if (known := self._tokens.get((tenant, user))) is not None:
            return known
        now = self._clock()
        claims = {
            "iss": self._service,
            "aud": self._audience,
            "sub": user,
            "tenant": tenant,
            "iat": now,
            "exp": now + self._life,
        }
        token = jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self._service})
        self._tokens.put((tenant, user), token, until=now + self._life - RENEW_SECONDS)
        return token


class Verifier:
    """Checks tokens against the public keys of the services that may call.

    The keys are Ed25519 in PEM, by service; raises BadKey naming the service of one that is not.
    """

    def __init__(
        self,
        public_keys: Mapping[str, str | bytes],
        *,
        audience: str = AUDIENCE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._audience = audience
        self._keys = {service: _public(service, key) for service, key in public_keys.items()}
        self._verified: _Expiring[str, Identity] = _Expiring(clock)

    def verify(self, token: str) -> Identity:
        """Return whom the token names; raises Unauthenticated with what is wrong with it."""
        if (known := self._verified.get(token)) is not None:
            return known
        try:
            claims = self._claims(token)
        except jwt.PyJWTError as error:
            message = f"the internal token is refused: {error}"
            raise Unauthenticated(message, reason="BAD_INTERNAL_TOKEN") from error
        identity = Identity(service=claims["iss"], tenant=claims["tenant"], user=claims["sub"])
        self._verified.put(token, identity, until=float(claims["exp"]))
        return identity

    def _claims(self, token: str) -> dict[str, Any]:
        # The unverified header only chooses the key; the issuer must then be that key's service.
        service = jwt.get_unverified_header(token).get("kid", "")
        if service not in self._keys:
            message = f"no key is known for service {service!r}"
            raise jwt.InvalidKeyError(message)
        claims: dict[str, Any] = jwt.decode(
            token,
            self._keys[service],
            algorithms=[ALGORITHM],
            audience=self._audience,
            issuer=service,
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": ["exp", "iat", "iss", "sub", "aud", "tenant"]},
        )
        return claims


def _private(service: str, pem: str | bytes) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(_bytes(pem), password=None)
    except (ValueError, TypeError) as error:  # TypeError: the key has a password
        raise BadKey(f"{service}: the signing key is no private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{service}: the signing key is not of the kind Ed25519")
    return key


def _public(service: str, pem: str | bytes) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(_bytes(pem))
    except ValueError as error:
        raise BadKey(f"{service}: no public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(f"{service}: the public key is not of the kind Ed25519")
    return key


def _bytes(pem: str | bytes) -> bytes:
    return pem.encode() if isinstance(pem, str) else pem


K = TypeVar("K")
V = TypeVar("V")


class _Expiring(Generic[K, V]):
    """A bounded cache of values with an end of life; the oldest goes first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        until, value = self._values.get(key, (0.0, None))
        return value if self._clock() < until else None

    def put(self, key: K, value: V, *, until: float) -> None:
        self._values[key] = (until, value)
        self._values.move_to_end(key)
        if len(self._values) > CACHED_TOKENS:
            self._values.popitem(last=False)
