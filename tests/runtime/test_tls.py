"""TLS between services, with a certificate authority of the test's own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue as Text

from services.runtime.channel import ChannelOptions, ClientTls
from services.runtime.server import ServerOptions, TlsFiles
from tests.certificates import Authority, Certified
from tests.runtime.calls import Stub, answering, echo, failure_of


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@asynccontextmanager
async def secured(
    authority: Authority, client: ClientTls, *, mutual: bool = False
) -> AsyncIterator[Stub]:
    """Serve with TLS on all addresses, which plain text may not, and dial as *client*."""
    pair = authority.certify("server")
    tls = TlsFiles(
        certificate_file=pair.certificate,
        key_file=pair.key,
        client_ca_file=authority.file if mutual else "",
    )
    options = ServerOptions(listen="0.0.0.0:0", tls=tls)
    arguments = {"options": ChannelOptions(tls=client)}
    async with answering(options, client=arguments, Unary=echo) as (stub, _):
        yield stub


async def test_a_server_with_a_certificate_is_open_to_others_and_answers(
    authority: Authority,
) -> None:
    async with secured(authority, ClientTls(ca_file=authority.file)) as stub:
        assert (await stub.unary(Text(value="x"))).value == "x"


async def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")

    async with secured(authority, ClientTls(ca_file=other.file)) as stub:
        error = await failure_of(stub.unary(Text()))

    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_plain_text_does_not_reach_a_server_with_tls(authority: Authority) -> None:
    async with secured(authority, ClientTls()) as stub:
        error = await failure_of(stub.unary(Text()))

    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_with_mutual_tls_a_client_needs_a_certificate_of_the_authority(
    authority: Authority, tmp_path: Path
) -> None:
    known, stranger = authority.certify("known"), Authority(tmp_path, "other").certify("stranger")

    def client(pair: Certified) -> ClientTls:
        return ClientTls(
            ca_file=authority.file, certificate_file=pair.certificate, key_file=pair.key
        )

    async with secured(authority, client(known), mutual=True) as stub:
        assert (await stub.unary(Text(value="x"))).value == "x"
    for refused in (ClientTls(ca_file=authority.file), client(stranger)):
        async with secured(authority, refused, mutual=True) as stub:
            assert (await failure_of(stub.unary(Text()))).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_reached_by_another_name_may_be_told_by_its_certificate(
    authority: Authority,
) -> None:
    tls = ClientTls(ca_file=authority.file, server_name="localhost")
    async with secured(authority, tls) as stub:
        assert (await stub.unary(Text(value="x"))).value == "x"
    async with secured(authority, ClientTls(ca_file=authority.file, server_name="x.org")) as stub:
        assert (await failure_of(stub.unary(Text()))).code() is grpc.StatusCode.UNAVAILABLE
