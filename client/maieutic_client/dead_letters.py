"""For those who run the backend: messages between the services that could not be read."""

from collections.abc import AsyncIterator, Sequence

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from maieutic.v1.dead_letter_admin_service_pb2_grpc import DeadLetterAdminServiceStub
from maieutic_client.connection import Connection, new_request_id


class DeadLetters:
    """`client.dead_letters`: needs an admin's API key, else PermissionDenied.

    Where letters are chosen by *filter*, an empty one matches all that were not redriven.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = DeadLetterAdminServiceStub(connection.channel)

    async def list(
        self,
        *,
        filter: pb.DeadLetterFilter | None = None,  # noqa: A002 - the field's name
        with_redriven: bool = False,
        page_size: int = 0,
    ) -> AsyncIterator[pb.DeadLetter]:
        """Iterate over the dead letters, the latest first; pages come as needed."""
        request = pb.ListDeadLettersRequest(
            filter=filter, with_redriven=with_redriven, page_size=page_size
        )
        async for page in self._connection.pages(self._stub.ListDeadLetters, request):
            for letter in page.letters:
                yield letter

    async def get(self, letter_id: str, *, with_content: bool = False) -> pb.GetDeadLetterResponse:
        """Return a letter; raises NotFound. Its content may have what users wrote."""
        request = pb.GetDeadLetterRequest(letter_id=letter_id, with_content=with_content)
        return await self._connection.call(self._stub.GetDeadLetter, request)

    async def redrive(
        self,
        letter_ids: Sequence[str] = (),
        *,
        filter: pb.DeadLetterFilter | None = None,  # noqa: A002 - the field's name
        dry_run: bool = False,
        request_id: str | None = None,
    ) -> pb.RedriveDeadLettersResponse:
        """Publish letters again, at most a hundred; a dry run only tells which, and where."""
        request = pb.RedriveDeadLettersRequest(
            letter_ids=letter_ids,
            filter=filter,
            dry_run=dry_run,
            request_id=request_id or new_request_id(),
        )
        return await self._connection.call(self._stub.RedriveDeadLetters, request)

    async def drop(
        self,
        letter_ids: Sequence[str] = (),
        *,
        filter: pb.DeadLetterFilter | None = None,  # noqa: A002 - the field's name
        request_id: str | None = None,
    ) -> int:
        """Remove letters for good and return how many; removing them again succeeds."""
        request = pb.DropDeadLettersRequest(
            letter_ids=letter_ids, filter=filter, request_id=request_id or new_request_id()
        )
        return (await self._connection.call(self._stub.DropDeadLetters, request)).dropped_count
