"""From requests for accounts to questions, and the tokens of their pages. Pure."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias

from maieutic.v1.usage_admin_service_pb2 import GetTenantUsageRequest
from maieutic.v1.usage_service_pb2 import GetUsageRequest, UsageKey
from services.persistence.facts import time_of
from services.persistence.requests import limited
from services.persistence.usage_ports import UsageQuestion
from services.runtime.errors import InvalidArgument

UsageRequest: TypeAlias = GetUsageRequest | GetTenantUsageRequest

DEFAULT_PAGE = 100
MARK_BYTES = 8
"""Of a page token: they tell its question from others."""
BETWEEN_KEYS = "\0"
"""No key has one, because the archive's texts have none."""


def question_of(request: UsageRequest, *, tenant: str, user_id: str | None) -> UsageQuestion:
    """Return what is asked of a user, or with None of the tenant. Raises InvalidArgument."""
    for name, text in (("tenant", tenant), ("user_id", user_id)):
        if "\0" in (text or ""):
            raise InvalidArgument(name, "must not have the character 0")
    start, end = _time(request, "start_time"), _time(request, "end_time")
    if start is not None and end is not None and end <= start:
        raise InvalidArgument("end_time", "must be after start_time")
    question = UsageQuestion(
        tenant=tenant,
        user_id=user_id,
        session_id=request.session_id,
        turn_id=request.turn_id,
        start=start,
        end=end,
        group_by=_keys(request),
        limit=limited("page_size", request.page_size or DEFAULT_PAGE),
    )
    return replace(question, after=_place(request.page_token, question))


def token_of(question: UsageQuestion, place: tuple[str, ...] | None) -> str:
    """Return the token of the page after a row; empty without one."""
    if place is None:
        return ""
    return urlsafe_b64encode(_mark(question) + BETWEEN_KEYS.join(place).encode()).decode()


def _place(token: str, question: UsageQuestion) -> tuple[str, ...] | None:
    if not token:
        return None
    try:
        told = urlsafe_b64decode(token)
        place = tuple(told[MARK_BYTES:].decode().split(BETWEEN_KEYS))
    except ValueError:
        told, place = b"", ()
    if told[:MARK_BYTES] != _mark(question) or len(place) != max(1, len(question.group_by)):
        raise InvalidArgument(
            "page_token", "must be next_page_token of the previous answer to the same question"
        )
    return place


def _mark(question: UsageQuestion) -> bytes:
    asked = repr(replace(question, after=None, limit=DEFAULT_PAGE))
    return hashlib.sha256(asked.encode()).digest()[:MARK_BYTES]


def _keys(request: UsageRequest) -> tuple[UsageKey.ValueType, ...]:
    keys = tuple(request.group_by)
    if not set(keys) <= set(UsageKey.values()) - {0} or len(set(keys)) < len(keys):
        raise InvalidArgument("group_by", "must be keys of UsageKey, each once")
    return keys


def _time(request: UsageRequest, field: str) -> datetime | None:
    try:
        return time_of(request, field)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(field, str(error)) from error
