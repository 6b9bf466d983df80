"""TLS between services, with a certificate authority of the test's own."""

import datetime as dt
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.protobuf.wrappers_pb2 import StringValue as Text

from services.runtime.channel import ChannelOptions, ClientTls
from services.runtime.server import ServerOptions, TlsFiles
from tests.runtime.calls import Stub, answering, echo, failure_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """PEM files of a key and its certificate."""

    certificate: str
    key: str


class Authority:
    """A certificate authority that signs for names and addresses."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(self._name, self._key, authority=True)
        self.file = self._written(f"{name}.pem", certificate.public_bytes(Encoding.PEM))

    def certify(self, name: str) -> Certified:
        """Return a certificate for *name* and 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._signed(subject, key, authority=False)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Certified(
            certificate=self._written(f"{name}.pem", certificate.public_bytes(Encoding.PEM)),
            key=self._written(f"{name}.key", pem),
        )

    def _signed(self, subject: x509.Name, key: Any, *, authority: bool) -> x509.Certificate:
        now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _written(self, name: str, content: bytes) -> str:
        path = self._folder / name
        path.write_bytes(content)
        return str(path)


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
