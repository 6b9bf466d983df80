"""Why the gateway turns a call away, each with a reason that programs can act on."""

from collections.abc import Iterable, Mapping
from itertools import islice

from google.rpc.error_details_pb2 import BadRequest, ResourceInfo

from services.runtime.errors import (
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServiceError,
    Unauthenticated,
    Unavailable,
)

HOW_TO_SEND_A_KEY = "send the metadata 'authorization: Bearer mk_…' or 'x-api-key: mk_…'"
PEER_RETRY_SECONDS = 1.0
BUSY_RETRY_SECONDS = 1.0
MOST_NAMED = 10


class NoKey(Unauthenticated):
    """The call carries no API key."""

    def __init__(self) -> None:
        super().__init__(f"the call carries no API key: {HOW_TO_SEND_A_KEY}", reason="NO_API_KEY")


class UnknownKey(Unauthenticated):
    """The key is not, or no longer, one of ours."""

    def __init__(self) -> None:
        message = f"the API key is unknown or withdrawn: {HOW_TO_SEND_A_KEY} with a valid key"
        super().__init__(message, reason="UNKNOWN_API_KEY")


class KeyMayNotNameUsers(PermissionDenied):
    """A key of one user was used for another."""

    def __init__(self) -> None:
        super().__init__(
            "this API key is for one user and may not name another in x-maieutic-user: leave the "
            "metadata out, or use a key that was made with may_act_for_users",
            reason="KEY_MAY_NOT_NAME_USERS",
        )


class NotAnAdmin(PermissionDenied):
    """A key that is not an admin's was used for the AdminService."""

    def __init__(self) -> None:
        super().__init__(
            "this API key is not an admin's: use the first key of the deployment, or one whose "
            'entry in the file of keys has "admin": true',
            reason="NOT_AN_ADMIN",
        )


class BadUser(InvalidArgument):
    """The user that a backend names cannot be a user id."""

    def __init__(self) -> None:
        super().__init__(
            "x-maieutic-user", "must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ + = -"
        )


class TenantBusy(ResourceExhausted):
    """The tenant has as many calls running as it may."""

    def __init__(self, *, streaming: bool, most: int) -> None:
        kind = "streams" if streaming else "calls"
        super().__init__(
            f"this tenant has {most} {kind} running, the most it may: end some, or retry later",
            reason="TENANT_BUSY",
            retry_after=BUSY_RETRY_SECONDS,
        )


class PeerAway(Unavailable):
    """A service behind the gateway does not answer."""

    def __init__(self, peer: str) -> None:
        super().__init__(
            f"the {peer} service does not answer at the moment: retry",
            reason="PEER_AWAY",
            retry_after=PEER_RETRY_SECONDS,
        )


class UnknownDocuments(NotFound):
    """A request refers to documents that the caller does not have; says which, and where."""

    def __init__(self, field: str, missing: Mapping[int, str]) -> None:
        # Errors travel in headers, which have no room for hundreds.
        missing = dict(islice(missing.items(), MOST_NAMED))
        listed = ", ".join(missing.values())
        ServiceError.__init__(
            self,
            f"{field}: {listed} not found: add the document first, or leave it out",
            reason="DOCUMENT_NOT_FOUND",
            extra=[_violations(field, missing), *_resources(missing.values())],
        )


class UnknownCollection(NotFound):
    """A request names a collection in which there are no documents for the caller."""

    def __init__(self, field: str, collection: str) -> None:
        violation = BadRequest.FieldViolation(field=field, description="no such collection")
        ServiceError.__init__(
            self,
            f"{field}: {collection} not found: attach documents to it first, or leave it out",
            reason="COLLECTION_NOT_FOUND",
            extra=[
                BadRequest(field_violations=[violation]),
                ResourceInfo(resource_type="collection", resource_name=collection),
            ],
        )


def _violations(field: str, missing: Mapping[int, str]) -> BadRequest:
    violation, problem = BadRequest.FieldViolation, "no such document"
    return BadRequest(
        field_violations=[
            violation(field=f"{field}[{place}]", description=problem) for place in missing
        ]
    )


def _resources(ids: Iterable[str]) -> list[ResourceInfo]:
    return [ResourceInfo(resource_type="document", resource_name=id_) for id_ in ids]
