"""What those who run the backend do with records that cannot be read: list, look, drop."""

import logging
import re

from maieutic.v1 import admin_service_pb2 as pb
from services.runtime.errors import NotFound
from services.session.errors import BadPageToken, InvalidId, RequestIdTaken
from services.session.ids import SHARDS
from services.session.listing import DEFAULT_PAGE
from services.session.model import Caller, timestamp
from services.session.ports import QUARANTINE_MS, Damage, PutAside, Quarantine

_log = logging.getLogger(__name__)

FIRST_BYTES = 8
"""Version and checksum, and hardly anything that a user wrote."""
CONTENT_BYTES = 1024 * 1024
_ID = re.compile(r"(\d{1,3}):[A-Za-z0-9._:-]{1,400}:(\d{1,15})")
_DAMAGES = {
    Damage.WRONG_TYPE: pb.RECORD_DAMAGE_WRONG_TYPE,
    Damage.VERSION: pb.RECORD_DAMAGE_VERSION,
    Damage.CHECKSUM: pb.RECORD_DAMAGE_CHECKSUM,
    Damage.UNPARSABLE: pb.RECORD_DAMAGE_UNPARSABLE,
}
_KINDS = {
    "": pb.RECORD_KIND_TURN,
    "ev": pb.RECORD_KIND_EVENTS,
    "rec": pb.RECORD_KIND_SESSION,
    "msg": pb.RECORD_KIND_MESSAGES,
    "notes": pb.RECORD_KIND_ANNOTATIONS,
    "op": pb.RECORD_KIND_OPERATION,
}
"""By what follows the id of the session or turn in their keys."""


class QuarantineOffice:
    """Shows and drops. Raises InvalidId, NotFound, RequestIdTaken and StoreUnavailable."""

    def __init__(self, quarantine: Quarantine) -> None:
        self._quarantine = quarantine

    async def page(
        self, request: pb.ListQuarantinedRequest
    ) -> tuple[list[pb.QuarantinedRecord], str]:
        """Return a page, the latest first, and the next one's token. Raises BadPageToken."""
        limit, before = request.page_size or DEFAULT_PAGE, _place(request.page_token)
        page, last = await self._quarantine.put_aside(before, limit)
        return [shown(record) for record in page], last[1] if last else ""

    async def get(self, record_id: str, *, with_content: bool) -> pb.GetQuarantinedResponse:
        """Return a record; its content, which may have what users wrote, only if asked for."""
        record = await self._quarantine.find_put_aside(_checked(record_id))
        if record is None:
            raise NotFound("quarantined record", record_id)
        limit = CONTENT_BYTES if with_content else FIRST_BYTES
        value_type, content = await self._quarantine.content_put_aside(record_id, limit)
        return pb.GetQuarantinedResponse(
            record=shown(record),
            value_type=value_type,
            first_bytes=content[:FIRST_BYTES],
            content=content if with_content else b"",
        )

    async def drop(self, caller: Caller, request: pb.DropQuarantinedRequest) -> None:
        """Remove a record; removing it again succeeds. Raises RequestIdTaken."""
        record_id = _checked(request.record_id)
        if not await self._quarantine.drop_put_aside(record_id, request.request_id):
            raise RequestIdTaken
        who = f"{caller.tenant}/{caller.user}"
        _log.warning("quarantined record %s is dropped", record_id, extra={"by": who})


def shown(record: PutAside) -> pb.QuarantinedRecord:
    """Return the record as the API shows it."""
    owner, _, rest = record.key.partition(":")
    owner_id, _, part = rest.partition(":")
    of_session = owner == "s"
    return pb.QuarantinedRecord(
        record_id=record.record_id,
        kind=_KINDS[part.partition(":")[0]],
        damage=_DAMAGES[record.damage],
        session_id=owner_id if of_session else "",
        turn_id="" if of_session else owner_id,
        quarantine_time=timestamp(record.at_ms),
        expire_time=timestamp(record.at_ms + QUARANTINE_MS),
        size=record.size,
    )


def _place(page_token: str) -> tuple[int, str] | None:
    """Return the place that a page begins after: a token is the id of the last record before."""
    if not page_token:
        return None
    if (match := _ID.fullmatch(page_token)) is None:
        raise BadPageToken
    return int(match[2]), page_token


def _checked(record_id: str) -> str:
    match = _ID.fullmatch(record_id)
    if match is None or int(match[1]) >= SHARDS:
        raise InvalidId("record_id", "must be the record_id of ListQuarantined")
    return record_id
