"""A small working quarantine: it keeps the records that it is given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from maieutic.v1 import admin_service_pb2 as pb
from maieutic.v1.admin_service_pb2_grpc import (
    AdminServiceServicer,
    add_AdminServiceServicer_to_server,
)
from services.runtime.errors import NotFound


@dataclass
class Quarantine(AdminServiceServicer):
    """Records by their id, in the order in which they are listed, two a page."""

    records: dict[str, pb.GetQuarantinedResponse] = field(default_factory=dict)

    def put(self, record_id: str, content: bytes) -> None:
        """Put a damaged session's record into quarantine."""
        record = pb.QuarantinedRecord(
            record_id=record_id,
            kind=pb.RECORD_KIND_SESSION,
            damage=pb.RECORD_DAMAGE_CHECKSUM,
            session_id="s" * 48,
            size=len(content),
        )
        self.records[record_id] = pb.GetQuarantinedResponse(
            record=record, value_type="string", first_bytes=content[:8], content=content
        )

    async def ListQuarantined(self, request: Any, context: Any) -> Any:
        start = int(request.page_token or 0)
        page = list(self.records.values())[start : start + 2]
        more = start + 2 < len(self.records)
        return pb.ListQuarantinedResponse(
            records=[kept.record for kept in page], next_page_token=str(start + 2) if more else ""
        )

    async def GetQuarantined(self, request: Any, context: Any) -> Any:
        if (kept := self.records.get(request.record_id)) is None:
            raise NotFound("quarantined record", request.record_id)
        answer = pb.GetQuarantinedResponse()
        answer.CopyFrom(kept)
        if not request.with_content:
            answer.ClearField("content")
        return answer

    async def DropQuarantined(self, request: Any, context: Any) -> Any:
        self.records.pop(request.record_id, None)
        return pb.DropQuarantinedResponse()


def register_quarantine(quarantine: Quarantine) -> Callable[[grpc.aio.Server], Sequence[str]]:
    """Return what `serving` calls to add the service."""

    def register(server: grpc.aio.Server) -> Sequence[str]:
        add_AdminServiceServicer_to_server(quarantine, server)
        return ("maieutic.v1.AdminService",)

    return register
