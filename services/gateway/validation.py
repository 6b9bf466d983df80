"""Checks every public request against the rules written beside its fields in the .proto files.

The generated code that callers install leaves the rules out, so the server reads them from the
descriptor image and checks requests as messages of a pool of its own.
"""

from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from functools import cached_property
from importlib import resources
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import grpc
import protovalidate
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from services.runtime.errors import InvalidArgument

FIXES: Mapping[str, str] = MappingProxyType(
    {
        "request_id": "make one up for each request, such as a UUID, and repeat it on retries",
        "session_id": "take it from CreateSession or ListSessions",
        "turn_id": "take it from a frame of the turn or from BeginTurn",
        "note_id": "take it from AddNote or ListNotes",
        "bookmark_id": "take it from AddBookmark or ListBookmarks",
        "message_id": "take it from ListMessages",
        "conflict_id": "take it from ListConflicts",
        "artifact_id": "take it from ListArtifacts or from a frame of the turn",
        "record_id": "take it from ListQuarantined",
        "letter_id": "take it from ListDeadLetters",
        "letter_ids": "take them from ListDeadLetters",
        "document_id": "take it from AddDocument or ListDocuments",
        "document_ids": "take them from AddDocument or ListDocuments",
        "collection": "use lower-case letters, digits, dots, dashes and underscores",
        "agent": "use the name of an agent here, such as direct",
        "currency": "use the three letters of the price table's currency, such as USD",
        "page_token": "take next_page_token of the previous answer, or leave it empty",
        "cursor": "take it from a frame of the turn, or leave it empty to watch from the start",
    }
)
"""What to do about it, by field name; the rule itself says what is wrong."""
MOST_PROBLEMS = 10
SHOWN_KEY_CHARACTERS = 32
TIMES = frozenset({"google.protobuf.Duration", "google.protobuf.Timestamp"})
NANOS_PER_SECOND = 1_000_000_000
MISSING_RULES = frozenset({"string.min_len", "string.pattern", "bytes.min_len", "enum.not_in"})

if TYPE_CHECKING:  # the stubs are generic, the classes themselves are not
    Handler = grpc.RpcMethodHandler[Any, Any]
else:
    Handler = grpc.RpcMethodHandler


class RequestRules:
    """The rules of the requests of some services, from a descriptor image."""

    def __init__(self, image: bytes, services: Collection[str]) -> None:
        self._files = FileDescriptorSet.FromString(image)
        self._validator = protovalidate.Validator()
        pool = _pool_of(self._files)
        self._inputs: dict[str, Descriptor] = {
            f"/{service}/{method.name}": method.input_type
            for service in services
            for method in pool.FindServiceByName(service).methods
        }

    @classmethod
    def packaged(cls, services: Collection[str]) -> "RequestRules":
        """Read the image that is generated with the code."""
        return cls(resources.files("maieutic").joinpath("image.binpb").read_bytes(), services)

    def covers(self, method: str) -> bool:
        """Return whether *method*, as on the wire, is one of the services'."""
        return method in self._inputs

    def check(self, method: str, raw: bytes) -> None:
        """Raise InvalidArgument with every field of the request that is wrong."""
        kind = self._inputs[method]
        try:
            message = GetMessageClass(kind).FromString(raw)
        except DecodeError as error:
            raise self._unreadable(kind, raw) from error
        problems = _problems(self._validator.collect_violations(message))
        for path in _ill_formed_times(message):
            problems.setdefault(path, "nanos must be within a second, and of the sign of seconds")
        if problems:
            raise InvalidArgument.fields(_first(problems))

    def _unreadable(self, kind: Descriptor, raw: bytes) -> InvalidArgument:
        """Find out which strings are not UTF-8; the parser itself does not say."""
        tolerant = GetMessageClass(self._tolerant_pool.FindMessageTypeByName(kind.full_name))
        try:
            message = tolerant.FromString(raw)
        except DecodeError:
            return InvalidArgument("request", f"is not a {kind.full_name}: it cannot be parsed")
        bad = [path for path, value in _strings_in(message, kind) if not _is_utf8(value)]
        return InvalidArgument.fields(dict.fromkeys(bad or ["request"], "must be valid UTF-8"))

    @cached_property
    def _tolerant_pool(self) -> DescriptorPool:
        """Return the same messages with every string as bytes."""
        files = FileDescriptorSet()
        files.CopyFrom(self._files)
        for file in files.file:
            for message in file.message_type:
                _strings_to_bytes(message)
        return _pool_of(files)


class CheckedRequests(grpc.aio.ServerInterceptor):
    """Parses and checks the requests of the covered methods inside the handler.

    gRPC parses before any interceptor runs its handler and answers INTERNAL if it cannot; and a
    caller without a key should not make us parse.
    """

    def __init__(self, rules: RequestRules) -> None:
        self._rules = rules

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Replace the handler by one that takes the bytes of its request."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not self._rules.covers(method):
            return handler
        if handler.request_streaming:
            return self._streamed(method, handler)
        parse: Any = handler.request_deserializer
        behavior: Any = handler.unary_stream if handler.response_streaming else handler.unary_unary

        def checked(raw: bytes, context: Any) -> Any:
            self._rules.check(method, raw)
            return behavior(parse(raw), context)

        async def unary(raw: bytes, context: Any) -> Any:
            return await checked(raw, context)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(checked, None, handler.response_serializer)
        return grpc.unary_unary_rpc_method_handler(unary, None, handler.response_serializer)

    def _streamed(self, method: str, handler: Handler) -> Handler:
        """Check each message before the handler receives it."""
        parse: Any = handler.request_deserializer
        behavior: Any = handler.stream_stream

        async def each_checked(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for raw in requests:
                self._rules.check(method, raw)
                yield parse(raw)

        def checked(requests: AsyncIterator[bytes], context: Any) -> Any:
            return behavior(each_checked(requests), context)

        return grpc.stream_stream_rpc_method_handler(checked, None, handler.response_serializer)


def _problems(violations: Collection[protovalidate.Violation]) -> dict[str, str]:
    problems: dict[str, list[str]] = {}
    for violation in violations:
        problems.setdefault(_path(violation), []).append(_problem(violation))
    return {path: "; ".join(dict.fromkeys(texts)) for path, texts in problems.items()}


def _path(violation: protovalidate.Violation) -> str:
    """Return the field as callers write it: metadata["a"], document_ids[3], time_budget."""
    return ".".join(
        f"{element.field_name}{_subscript(element.subscript)}" for element in _elements(violation)
    )


def _elements(violation: protovalidate.Violation) -> Sequence[Any]:
    field = violation.proto.field
    return field.elements if field is not None else ()


def _subscript(subscript: Any) -> str:
    if subscript is None:
        return ""
    if subscript.field == "string_key":
        shown = subscript.value[:SHOWN_KEY_CHARACTERS]
        return f'["{shown}{"" if shown == subscript.value else "…"}"]'
    return f"[{subscript.value}]"


def _first(problems: Mapping[str, str]) -> Mapping[str, str]:
    """Bound what is answered: errors travel in headers, which have no room for hundreds."""
    first = dict(islice(problems.items(), MOST_PROBLEMS))
    if more := len(problems) - len(first):
        last = next(reversed(first))
        first[last] += f" (and {more} more fields are wrong)"
    return first


def _ill_formed_times(message: Message) -> Iterator[str]:
    """Yield the fields with a duration or a time that no rule of protovalidate refuses."""
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.full_name not in TIMES:
            continue
        if abs(value.nanos) >= NANOS_PER_SECOND or value.seconds * value.nanos < 0:
            yield field.name


def _problem(violation: protovalidate.Violation) -> str:
    proto = violation.proto
    missing = proto.rule_id in MISSING_RULES and not violation.field_value
    problem = "is missing" if missing else proto.message
    if proto.for_key:
        problem = f"its key {problem}"
    name = _elements(violation)[-1].field_name if _elements(violation) else ""
    return f"{problem}: {FIXES[name]}" if name in FIXES else problem


def _pool_of(files: FileDescriptorSet) -> DescriptorPool:
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return pool


def _strings_to_bytes(message: DescriptorProto) -> None:
    message.options.map_entry = False  # a map's key cannot be bytes, a plain field can
    for field in message.field:
        if field.type == FieldDescriptorProto.TYPE_STRING:
            field.type = FieldDescriptorProto.TYPE_BYTES
            field.ClearField("options")
    for nested in message.nested_type:
        _strings_to_bytes(nested)


def _strings_in(
    message: Message, kind: Descriptor, prefix: str = ""
) -> Iterator[tuple[str, bytes]]:
    """Yield path and value of what *kind* declares as strings and *message* holds as bytes."""
    for field, value in message.ListFields():
        declared = kind.fields_by_number[field.number]
        for place, item in enumerate(value if declared.is_repeated else [value]):
            path = f"{prefix}{field.name}" + (f"[{place}]" if declared.is_repeated else "")
            if declared.message_type is not None:
                yield from _strings_in(item, declared.message_type, f"{path}.")
            elif declared.type == declared.TYPE_STRING:
                yield path, item


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
