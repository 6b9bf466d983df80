"""Dead letters are the archive's: the session service passes on what the gateway lets through."""

import grpc

from maieutic.v1 import dead_letter_admin_service_pb2 as pb
from tests.session.stack import Stack, failure, reason


async def test_workers_have_no_business_with_dead_letters(stack: Stack) -> None:
    letters = stack.first.worker_dead_letters
    for call in (
        letters.ListDeadLetters(pb.ListDeadLettersRequest()),
        letters.GetDeadLetter(pb.GetDeadLetterRequest()),
        letters.RedriveDeadLetters(pb.RedriveDeadLettersRequest()),
        letters.DropDeadLetters(pb.DropDeadLettersRequest()),
    ):
        error = await failure(call)
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert reason(error) == "SERVICES_ONLY"


async def test_an_archive_of_the_version_before_is_told_as_such(stack: Stack) -> None:
    error = await failure(stack.first.dead_letters.ListDeadLetters(pb.ListDeadLettersRequest()))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
