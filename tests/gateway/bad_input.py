"""Every wrong request to the public API that the descriptors suggest, and what must come of it.

The table is made from the public services' methods and fields, so a new field is covered at once.
`answer_to` sends one of them to whatever serves the API.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from maieutic.v1 import (
    document_service_pb2,
    session_service_pb2,
    turn_service_pb2,
    usage_service_pb2,
)
from maieutic.v1.document_service_pb2 import DocumentFilter, DocumentFormat
from maieutic.v1.session_service_pb2 import SessionFilter

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED

FILES = (session_service_pb2, turn_service_pb2, document_service_pb2, usage_service_pb2)
METHODS: Mapping[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.client_streaming  # of a stream each message is checked alike
}
STREAMING = frozenset(
    {
        *(
            f"/maieutic.v1.TurnService/{name}"
            for name in ("StreamTurn", "NextQuestion", "Analyze", "GenerateCode", "WatchTurn")
        ),
        "/maieutic.v1.SessionService/WatchSession",
    }
)
REQUIRED = frozenset(
    {
        "update_mask",
        *("session_id", "turn_id", "document_id", "request_id"),
        *("note_id", "bookmark_id", "message_id"),
        *("text", "name", "content", "query", "format"),
    }
)
IDS = frozenset(
    {
        *("session_id", "turn_id", "document_id", "document_ids"),
        *("note_id", "bookmark_id", "message_id"),
    }
)
FORGIVEN = frozenset(
    {
        # Deleting again succeeds, and a search of nothing may find nothing.
        *(
            "/DeleteSession.session_id",
            "/DeleteDocument.document_id",
            "/SearchDocuments.document_ids",
            "/DetachDocuments.document_ids",
        ),
        *("/DeleteNote.note_id", "/DeleteBookmark.bookmark_id"),
    }
)
SOURCES = "sources"
"""A collection that has documents, and from which no request takes them."""
HUGE = 70_000
NOT_UTF8 = b"\xff\xfe"
LENGTH_DELIMITED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A request that must be refused."""

    name: str
    method: str
    wrong: bytes
    """Put behind the valid request's bytes: on the wire the last value of a field counts."""
    field: str = ""
    """The field that the answer must name; empty if there is none to name."""
    code: grpc.StatusCode = INVALID
    cleared: tuple[str, ...] = ()
    """Fields that are left out of the valid request."""

    def __str__(self) -> str:
        return f"{self.method.rpartition('/')[2]}: {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """A served public API, and things in it that the key's user may use."""

    channel: grpc.aio.Channel
    key: str
    stranger_key: str
    """Of another tenant."""
    session_id: str
    turn_id: str
    message_id: str
    document_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a call."""

    code: grpc.StatusCode
    message: str
    reason: str
    fields: Sequence[str]

    @property
    def tops(self) -> set[str]:
        """The fields of the request itself that are named: filter for filter.metadata["a"]."""
        return {re.split(r"[.\[]", field)[0] for field in self.fields}


def cases() -> list[Case]:
    """Return the whole table."""
    return [
        case
        for method, descriptor in METHODS.items()
        for case in (
            *_of_fields(method, descriptor),
            *_of_choices(method, descriptor),
            *_of_references(method, descriptor),
            Case(name="not protobuf", method=method, wrong=b"\xff\xff\xff\xff", field="request"),
        )
    ]


def _of_fields(method: str, descriptor: MethodDescriptor) -> Iterator[Case]:
    for field in descriptor.input_type.fields:
        if field.name in REQUIRED and field.containing_oneof is None:
            yield Case(
                name=f"{field.name} is missing",
                method=method,
                wrong=b"",
                field=field.name,
                cleared=(field.name,),
            )
        for name, wrong in _wrong_values(field):
            yield Case(
                name=f"{field.name} is {name}",
                method=method,
                wrong=wrong,
                field=field.name,
                cleared=(field.name,),
            )


def _of_choices(method: str, descriptor: MethodDescriptor) -> Iterator[Case]:
    """Nothing where one of several fields is needed."""
    for choice in descriptor.input_type.oneofs:
        names = tuple(field.name for field in choice.fields)
        # Alone it is an optional field, and without a scope everything is meant.
        if len(names) > 1 and choice.name != "scope":
            yield Case(
                name=f"{choice.name} is missing",
                method=method,
                wrong=b"",
                field=choice.name,
                cleared=names,
            )


def _wrong_values(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    if field.type == FieldDescriptor.TYPE_STRING:
        yield from _wrong_strings(field)
    elif field.type == FieldDescriptor.TYPE_ENUM:
        yield from _wrong_enums(field)
    elif field.type == FieldDescriptor.TYPE_INT64:
        yield "negative", _with(field, -1)
    elif field.type == FieldDescriptor.TYPE_INT32:
        yield "negative", _with(field, -1)
        yield "absurd", _with(field, 2**31 - 1)
    elif field.type == FieldDescriptor.TYPE_FLOAT:
        yield "no number", _with(field, nan)
        yield "absurd", _with(field, 1e30)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield "too long", _with(field, b"a" * (2 * 1024 * 1024 + 1))
    elif field.type != FieldDescriptor.TYPE_BOOL:  # of which none is wrong
        yield from _wrong_messages(field)


def _wrong_messages(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        yield from _wrong_maps(field)
    elif kind is not None and kind.full_name == "google.protobuf.Duration":
        yield from _wrong_durations(field)
    elif kind is not None and kind.full_name == "google.protobuf.Timestamp":
        yield from _wrong_timestamps(field)
    elif kind is not None and kind.full_name == "google.protobuf.FieldMask":
        yield from _wrong_masks(field)
    elif kind is not None and kind.full_name == "maieutic.v1.SessionFilter":
        yield from _wrong_filters(field)
    elif kind is not None and kind.full_name == "maieutic.v1.Budget":
        yield from _wrong_budgets(field)
    elif kind is not None and kind.full_name == "maieutic.v1.DocumentFilter":
        yield (
            "with an unknown format",
            _with(field, DocumentFilter(formats=[DocumentFormat.ValueType(99)])),
        )
        yield "with too long a name", _with(field, DocumentFilter(name_contains="a" * 201))
        yield "with a name that is not UTF-8", _delimited(field, b"\x12\x01\xff")
    else:
        raise NotImplementedError(f"say what is wrong for {field.full_name}")


def _wrong_strings(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    def value(text: str) -> Any:
        return [text] if field.is_repeated else text

    yield "too long", _with(field, value("a" * HUGE))
    yield "not UTF-8", _delimited(field, NOT_UTF8)
    if field.name in IDS:
        yield "too short for an id", _with(field, value("abc"))
        yield "an id with odd characters", _with(field, value("é/%:" * 12))
        yield "an id with a line end", _with(field, value("a" * 48 + "\n"))
    if field.name == "request_id":
        yield "with spaces", _with(field, value("a b"))
    if field.name in {"page_token", "cursor"}:
        yield "made up", _with(field, value("not-one-of-yours"))
    if field.is_repeated:
        yield "too many", _with(field, [f"{number:048}" for number in range(101)])
    if field.name == "document_ids" and "SearchDocuments" not in field.full_name:
        yield "twice the same", _with(field, ["a" * 48] * 2)


def _wrong_maps(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    yield "too large", _with(field, {str(number): "" for number in range(33)})
    yield "with a key too long", _with(field, {"k" * HUGE: ""})
    yield "with an empty key", _with(field, {"": "value"})
    yield "with a value too long", _with(field, {"key": "v" * HUGE})
    yield "with a key not UTF-8", _delimited(field, b"\x0a\x02" + NOT_UTF8)


def _wrong_durations(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    yield "zero", _with(field, {"seconds": 0})
    yield "negative", _with(field, {"seconds": -5})
    yield "absurd", _with(field, {"seconds": 2**62})
    yield "with absurd nanoseconds", _with(field, {"seconds": 5, "nanos": 2**31 - 1})


def _wrong_timestamps(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    yield "before all times", _with(field, {"seconds": -5})
    yield "absurd", _with(field, {"seconds": 2**62})
    yield "with absurd nanoseconds", _with(field, {"seconds": 5, "nanos": 2**31 - 1})
    yield "with negative nanoseconds", _with(field, {"seconds": 5, "nanos": -1})


def _wrong_enums(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    for name, number in (("an unknown number", 99), ("negative", -1)):
        yield name, _with(field, [number] if field.is_repeated else number)
    if field.is_repeated:
        yield "unspecified", _with(field, [0])
        yield "twice the same", _with(field, [1, 1])


def _wrong_masks(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    yield "empty", _with(field, {"paths": []})
    yield "of what cannot be changed", _with(field, {"paths": ["title", "revision"]})
    yield "of nothing there is", _with(field, {"paths": ["é" * 100]})
    yield "not UTF-8", _delimited(field, b"\x0a\x02" + NOT_UTF8)


def _wrong_filters(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    for part in SessionFilter.DESCRIPTOR.fields:
        for name, wrong in _wrong_values(part):
            yield f"with {part.name} {name}", _delimited(field, wrong)


def _wrong_budgets(field: FieldDescriptor) -> Iterator[tuple[str, bytes]]:
    yield "of nothing", _with(field, {})
    yield "of no tokens", _with(field, {"tokens": 0})
    yield "of negative tokens", _with(field, {"tokens": -1})
    yield "of absurd tokens", _with(field, {"tokens": 2**62})
    yield "of absurd money", _with(field, {"cost_micros": 2**62, "currency": "USD"})
    yield "of money without a currency", _with(field, {"cost_micros": 1})
    yield "of tokens with a currency", _with(field, {"tokens": 1, "currency": "USD"})
    yield "of a currency that is none", _with(field, {"cost_micros": 1, "currency": "dollars"})
    yield "of a currency not UTF-8", _delimited(field, b"\x1a\x02" + NOT_UTF8)


def _of_references(method: str, descriptor: MethodDescriptor) -> Iterator[Case]:
    """Well-formed ids of nothing."""
    name = method[method.rindex("/") :]
    for field in descriptor.input_type.fields:
        if field.name in IDS and f"{name}.{field.name}" not in FORGIVEN:
            unknown = ["u" * 48] if field.is_repeated else "u" * 48
            yield Case(
                name=f"{field.name} is of nothing",
                method=method,
                wrong=_with(field, unknown),
                field=field.name,
                code=NOT_FOUND,
                cleared=(field.name,),
            )


def valid_request(api: Api, method: str) -> Message:
    """Return a request that the API answers."""
    values: dict[str, Any] = {
        "session_id": api.session_id,
        "turn_id": api.turn_id,
        "message_id": api.message_id,
        "note_id": "n" * 48,
        "bookmark_id": "b" * 48,
        "document_id": api.document_id,
        "collection": "brand-x",
        # In one session an id is of one kind of request.
        "request_id": method.rpartition("/")[2],
        "text": "a question",
        "name": "notes.md",
        "content": b"a text",
        "query": "a text",
        "format": document_service_pb2.DOCUMENT_FORMAT_MARKDOWN,
        "update_mask": {"paths": ["title", "document_ids"]},
    }
    kind = METHODS[method].input_type
    if method.endswith(("/AttachDocuments", "/DetachDocuments", "/CreateDocumentSet")):
        values |= {"document_ids": [api.document_id]}
    if method.endswith("/Analyze"):
        values |= {"collection": SOURCES}
    present = {field.name: values[field.name] for field in kind.fields if field.name in values}
    message: Message = GetMessageClass(kind)(**present)
    return message


def request_of(api: Api, case: Case) -> bytes:
    """Return the bytes of the case's request."""
    valid = valid_request(api, case.method)
    for name in case.cleared:
        valid.ClearField(name)
    if case.code is NOT_FOUND and "request_id" in valid.DESCRIPTOR.fields_by_name:
        # What was asked before under one id is found by it: this is another request.
        valid.request_id += ".of-nothing"  # type: ignore[attr-defined] # it has one
    return valid.SerializeToString() + case.wrong


async def answer_to(
    api: Api, method: str, raw: bytes, *metadata: tuple[str, str], key: str | None = None
) -> Answer:
    """Send raw bytes and return what the call ends with; of a stream the first frame is enough."""
    sent = (*metadata, ("authorization", f"Bearer {api.key if key is None else key}"))
    if key == "":
        sent = metadata
    channel: Any = api.channel  # the stubs know no calls with plain bytes
    try:
        if method in STREAMING:
            async for _ in channel.unary_stream(method)(raw, metadata=sent, timeout=30):
                break
        else:
            await channel.unary_unary(method)(raw, metadata=sent, timeout=30)
    except grpc.aio.AioRpcError as error:
        return _answer(error)
    return Answer(code=grpc.StatusCode.OK, message="", reason="", fields=())


def _answer(error: grpc.aio.AioRpcError) -> Answer:
    raw = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    details = Status.FromString(raw).details if isinstance(raw, bytes) else ()
    bad, info = _detail(details, BadRequest()), _detail(details, ErrorInfo())
    return Answer(
        code=error.code(),
        message=error.details() or "",
        reason=info.reason,
        fields=[violation.field for violation in bad.field_violations],
    )


def _detail(details: Sequence[AnyMessage], kind: Any) -> Any:
    for detail in details:
        if detail.Unpack(kind):
            break
    return kind


def _with(field: FieldDescriptor, value: Any) -> bytes:
    kind: Any = field.containing_type
    message = GetMessageClass(kind)(**{field.name: value})
    return message.SerializeToString() or _delimited(field, b"")


def _delimited(field: FieldDescriptor, value: bytes) -> bytes:
    return bytes([field.number << 3 | LENGTH_DELIMITED]) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F)
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
