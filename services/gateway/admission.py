"""Lets a call in: its key, its user, its tenant's share of what may run at once."""

from typing import Any

from services.gateway.errors import NotAnAdmin, UnknownKey
from services.gateway.model import TenantShares, caller_of, key_in
from services.gateway.ports import KeyStore
from services.runtime.identity import acting_for
from services.runtime.interceptors import Answer, Around, Call

ADMIN_SERVICE = "maieutic.v1.AdminService"
DOCUMENT_ADMIN_SERVICE = "maieutic.v1.DocumentAdminService"
INDEX_ADMIN_SERVICE = "maieutic.v1.IndexAdminService"
DEAD_LETTER_ADMIN_SERVICE = "maieutic.v1.DeadLetterAdminService"
USAGE_ADMIN_SERVICE = "maieutic.v1.UsageAdminService"
FOR_ADMINS = tuple(
    f"/{service}/"
    for service in (
        ADMIN_SERVICE,
        DOCUMENT_ADMIN_SERVICE,
        INDEX_ADMIN_SERVICE,
        DEAD_LETTER_ADMIN_SERVICE,
        USAGE_ADMIN_SERVICE,
    )
)


def admitted(keys: KeyStore, shares: TenantShares) -> Around:
    """Require a valid API key, and make the calls behind it for its tenant and user.

    Health and reflection pass without a key; the services for admins need an admin's. Raises
    Unauthenticated, PermissionDenied, InvalidArgument for a bad user name, and ResourceExhausted.
    """

    async def around(call: Call, answer: Answer) -> Any:
        if call.infrastructure:
            return await answer()
        holder = await keys.holder(key_in(call.metadata))
        if holder is None:
            raise UnknownKey
        if call.method.startswith(FOR_ADMINS) and not holder.admin:
            raise NotAnAdmin
        caller = caller_of(holder, call.metadata)
        with (
            shares.one(caller.tenant, streaming=call.streaming),
            acting_for(caller.tenant, caller.user),
        ):
            return await answer()

    return around
