"""Who calls: a user whom the gateway vouches for, or a service."""

from typing import Any, TypeAlias

import grpc

from services.runtime.identity import current_identity
from services.session.errors import ServicesOnly
from services.session.model import Caller

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

WORKERS = frozenset({"agents"})
ARCHIVE = frozenset({"persistence"})
GATEWAY = frozenset({"gateway"})
"""It lets nobody but admins through to the admins' services."""


def calling_user() -> Caller:
    """Return for which user of which tenant the call is."""
    identity = current_identity()
    return Caller(tenant=identity.tenant, user=identity.user)


def only_for(services: frozenset[str]) -> None:
    """Raise ServicesOnly if the call is not of one of these services."""
    if current_identity().service not in services:
        raise ServicesOnly
