"""What calls of models have consumed and cost."""

from collections.abc import AsyncIterator, Collection
from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from maieutic.v1 import usage_admin_service_pb2 as admin_pb, usage_service_pb2 as pb
from maieutic.v1.usage_admin_service_pb2_grpc import UsageAdminServiceStub
from maieutic.v1.usage_service_pb2_grpc import UsageServiceStub
from maieutic_client.connection import Connection
from maieutic_client.session_ids import SessionLike, session_id_of


class Usage:
    """`client.usage`: the accounts, which have a turn's calls within seconds of its end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._own = UsageServiceStub(connection.channel)
        self._all = UsageAdminServiceStub(connection.channel)

    async def get(
        self,
        *,
        session: SessionLike | None = None,
        turn_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        group_by: Collection[pb.UsageKey.ValueType] = (),
    ) -> pb.GetUsageResponse:
        """Return what the caller's own calls have consumed, with all rows.

        Of one session or one turn, if it is named; raises NotFound if it is not the caller's. Of
        the calls whose attempt ended at *since* or later and before *until*, in UTC if they name no
        zone.
        """
        request = pb.GetUsageRequest(
            start_time=_timestamp(since),
            end_time=_timestamp(until),
            group_by=group_by,
        )
        _limit(request, session, turn_id=turn_id)
        return await _whole(self._connection.pages(self._own.GetUsage, request))

    async def get_tenant(
        self,
        tenant: str = "",
        *,
        user: str | None = None,
        session: SessionLike | None = None,
        turn_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        group_by: Collection[pb.UsageKey.ValueType] = (),
    ) -> pb.GetUsageResponse:
        """Return the same of a whole tenant, or of one user, session or turn of it.

        Without a *tenant* it is the one of the key.
        Needs an admin's API key, else PermissionDenied.
        """
        request = admin_pb.GetTenantUsageRequest(
            tenant=tenant,
            start_time=_timestamp(since),
            end_time=_timestamp(until),
            group_by=group_by,
        )
        _limit(request, session, turn_id=turn_id, user_id=user)
        return await _whole(self._connection.pages(self._all.GetTenantUsage, request))


def _limit(
    request: pb.GetUsageRequest | admin_pb.GetTenantUsageRequest,
    session: SessionLike | None,
    **others: str | None,
) -> None:
    """Ask of one thing alone. Raises ValueError for several."""
    session_id = None if session is None else session_id_of(session)
    named = {"session_id": session_id, **others}
    chosen = {name: value for name, value in named.items() if value is not None}
    if len(chosen) > 1:
        raise ValueError(f"ask of one of these at a time: {', '.join(chosen)}")
    for name, value in chosen.items():
        setattr(request, name, value)


async def _whole(pages: AsyncIterator[Any]) -> pb.GetUsageResponse:
    """Return the rows of all pages, with the sums that came with the last one."""
    whole = pb.GetUsageResponse()
    async for page in pages:
        whole.rows.extend(page.rows)
        whole.total.CopyFrom(page.total)
    return whole


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
