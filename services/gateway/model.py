"""Who may call and for whom: decisions on keys, users and shares, without input or output."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from services.gateway.errors import BadUser, KeyMayNotNameUsers, NoKey, TenantBusy

AUTHORIZATION = "authorization"
API_KEY = "x-api-key"
USER = "x-maieutic-user"
BEARER = "bearer "
USER_PATTERN = re.compile(r"[A-Za-z0-9._:@+=-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
    """Whom an API key was given to."""

    tenant: str
    user: str
    may_act_for_users: bool = False
    """Whether the holder is a backend that may name the end user of each call."""
    admin: bool = False
    """Whether the holder runs the backend, and may see to the records of all tenants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The tenant and the user that a call is for."""

    tenant: str
    user: str


def key_in(metadata: Mapping[str, str]) -> str:
    """Return the API key that the metadata carries; raises NoKey."""
    authorization = metadata.get(AUTHORIZATION, "")
    if authorization[: len(BEARER)].lower() == BEARER:
        return authorization[len(BEARER) :].strip()
    if key := metadata.get(API_KEY, "").strip():
        return key
    raise NoKey


def caller_of(holder: KeyHolder, metadata: Mapping[str, str]) -> Caller:
    """Return whom the call is for; raises BadUser and KeyMayNotNameUsers."""
    named = metadata.get(USER)
    if named is None or named == holder.user:
        return Caller(tenant=holder.tenant, user=holder.user)
    if not holder.may_act_for_users:
        raise KeyMayNotNameUsers
    if not USER_PATTERN.fullmatch(named):
        raise BadUser
    return Caller(tenant=holder.tenant, user=named)


class TenantShares:
    """How many calls of each tenant run now, and the most that may."""

    def __init__(self, *, calls: int, streams: int) -> None:
        self._most = {False: calls, True: streams}
        self._running: Counter[tuple[str, bool]] = Counter()

    @contextmanager
    def one(self, tenant: str, *, streaming: bool) -> Iterator[None]:
        """Hold one of the tenant's places for the block; raises TenantBusy if all are taken."""
        share = (tenant, streaming)
        if self._running[share] >= self._most[streaming]:
            raise TenantBusy(streaming=streaming, most=self._most[streaming])
        self._running[share] += 1
        try:
            yield
        finally:
            self._running[share] -= 1
            if not self._running[share]:
                del self._running[share]
