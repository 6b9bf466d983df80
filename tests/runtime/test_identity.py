"""Tokens between services: who may call, for whom, and for how long."""

import asyncio
import time
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf.wrappers_pb2 import StringValue as Text
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.runtime.errors import Unauthenticated, from_rpc
from services.runtime.identity import (
    AUDIENCE,
    CACHED_TOKENS,
    BadKey,
    Identity,
    Signer,
    Verifier,
    acting,
    acting_for,
    current_identity,
    identified_as,
)
from tests.runtime.calls import answering, echo, failure_of


def key_pair() -> tuple[bytes, bytes]:
    """Return a new private and public key in PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private, public


GATEWAY, GATEWAY_PUBLIC = key_pair()
AGENTS, AGENTS_PUBLIC = key_pair()
STRANGER, _ = key_pair()

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
RSA_PRIVATE = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
RSA_PUBLIC = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def verifier() -> Verifier:
    return Verifier({"gateway": GATEWAY_PUBLIC, "agents": AGENTS_PUBLIC})


async def who(request: Text, context: Any) -> Text:
    caller = current_identity()
    return Text(value=f"{caller.service} {caller.tenant} {caller.user}")


async def test_a_call_says_which_service_calls_for_whom() -> None:
    client = {"signer": Signer("gateway", GATEWAY)}
    async with answering(client=client, server={"verifier": verifier()}, Unary=who) as (stub, _):
        with acting_for("acme", "ada"):
            assert (await stub.unary(Text())).value == "gateway acme ada"
        assert (await stub.unary(Text())).value == "gateway  "


async def test_a_stream_says_it_too() -> None:
    async def stream(request: Text, context: Any) -> Any:
        yield await who(request, context)

    client = {"signer": Signer("agents", AGENTS)}
    async with answering(client=client, server={"verifier": verifier()}, Stream=stream) as (s, _):
        with acting_for("acme", "ada"):
            assert (await s.stream(Text()).read()).value == "agents acme ada"


async def test_the_service_in_the_middle_calls_in_its_own_name_for_the_same_user() -> None:
    far_client = {"signer": Signer("agents", AGENTS)}
    near_client = {"signer": Signer("gateway", GATEWAY)}
    server = {"verifier": verifier()}
    async with answering(client=far_client, server=server, Unary=who) as (far, _):

        async def middle(request: Text, context: Any) -> Text:
            reply: Text = await far.unary(request)
            return reply

        async with answering(client=near_client, server=server, Unary=middle) as (near, _):
            with acting_for("acme", "ada"):
                assert (await near.unary(Text())).value == "agents acme ada"


async def test_calls_at_the_same_time_keep_their_users_apart() -> None:
    client = {"signer": Signer("gateway", GATEWAY)}
    async with answering(client=client, server={"verifier": verifier()}, Unary=who) as (stub, _):

        async def ask(user: str) -> str:
            with acting_for("acme", user):
                reply: Text = await stub.unary(Text())
                return reply.value

        users = [f"u{number}" for number in range(30)]
        answers = await asyncio.gather(*map(ask, users))

    assert answers == [f"gateway acme {user}" for user in users]


@pytest.mark.parametrize(
    "signer",
    [
        None,
        Signer("gateway", STRANGER),
        Signer("stranger", STRANGER),
        Signer("gateway", AGENTS),
        Signer("gateway", GATEWAY, clock=lambda: time.time() - 120),
        Signer("gateway", GATEWAY, clock=lambda: time.time() + 120),
    ],
    ids=["no token", "wrong key", "unknown service", "other's key", "expired", "from the future"],
)
async def test_a_call_without_a_good_token_is_refused(signer: Signer | None) -> None:
    server = {"verifier": verifier()}
    async with answering(client={"signer": signer}, server=server, Unary=who) as (stub, _):
        error = await failure_of(stub.unary(Text()))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert from_rpc(error).reason in {"NO_INTERNAL_TOKEN", "BAD_INTERNAL_TOKEN"}


async def test_health_needs_no_token() -> None:
    async with (
        answering(server={"verifier": verifier()}, Unary=who) as (_, running),
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())

    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_server_without_a_verifier_takes_no_token_for_an_identity() -> None:
    client = {"signer": Signer("gateway", GATEWAY)}
    async with answering(client=client, Unary=who) as (stub, _):
        error = await failure_of(stub.unary(Text()))
    async with answering(client=client, Unary=echo) as (stub, _):
        assert await stub.unary(Text(value="x")) == Text(value="x")

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def forged(header: dict[str, str], **claims: object) -> str:
    now = time.time()
    good = {"iss": "gateway", "aud": AUDIENCE, "sub": "u", "tenant": "t", "iat": now}
    return jwt.encode({**good, "exp": now + 60, **claims}, GATEWAY, "EdDSA", headers=header)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "not.a.token",
        jwt.encode({"iss": "gateway"}, "x" * 32, "HS256", headers={"kid": "gateway"}),
        jwt.encode({"iss": "gateway"}, "", "none", headers={"kid": "gateway"}),
        forged({"kid": "gateway"}, iss="agents"),
        forged({"kid": "agents"}),
        forged({"kid": "gateway"}, aud="somebody else"),
        forged({"kid": "gateway"}, tenant=None),
        forged({}),
    ],
)
def test_a_forged_token_is_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        verifier().verify(token)


def test_a_token_serves_again_until_it_grows_old() -> None:
    now = [time.time()]
    signer = Signer("gateway", GATEWAY, clock=lambda: now[0])
    first = signer.token("acme", "ada")

    now[0] += 39
    assert signer.token("acme", "ada") == first
    assert signer.token("acme", "bob") != first
    now[0] += 2
    assert signer.token("acme", "ada") != first


def test_a_verified_token_is_refused_once_it_has_expired() -> None:
    now = [time.time() - 50]
    token = Signer("gateway", GATEWAY, clock=lambda: now[0], life=40).token("acme", "ada")
    checked = Verifier({"gateway": GATEWAY_PUBLIC}, clock=lambda: now[0])
    with pytest.raises(Unauthenticated, match="expired"):
        checked.verify(token)

    fresh = Signer("gateway", GATEWAY, clock=time.time).token("acme", "ada")
    assert checked.verify(fresh) == Identity(service="gateway", tenant="acme", user="ada")
    now[0] = time.time() + 61
    assert checked._verified.get(fresh) is None


def test_the_caches_stay_bounded() -> None:
    signer = Signer("gateway", GATEWAY)
    signer._tokens.put(("acme", "first"), "token", until=time.time() + 60)
    for number in range(CACHED_TOKENS):
        signer._tokens.put(("acme", str(number)), "token", until=time.time() + 60)

    assert len(signer._tokens._values) == CACHED_TOKENS
    assert signer._tokens.get(("acme", "first")) is None


@pytest.mark.parametrize("key", ["", "not a key", GATEWAY_PUBLIC, RSA_PRIVATE])
def test_a_bad_signing_key_is_refused_at_the_start(key: str | bytes) -> None:
    with pytest.raises(BadKey, match="gateway: the signing key is"):
        Signer("gateway", key)


@pytest.mark.parametrize("key", ["", "not a key", GATEWAY, RSA_PUBLIC])
def test_a_bad_public_key_is_refused_at_the_start(key: str | bytes) -> None:
    with pytest.raises(BadKey, match="agents: "):
        Verifier({"gateway": GATEWAY_PUBLIC, "agents": key})


def test_there_is_no_identity_outside_of_a_call() -> None:
    with pytest.raises(Unauthenticated):
        current_identity()
    assert acting() == ("", "")
    with identified_as(Identity(service="gateway", tenant="acme", user="ada")):
        assert current_identity().user == "ada"
        assert acting() == ("acme", "ada")
        with acting_for("acme", "bob"):
            assert acting() == ("acme", "bob")
    assert acting() == ("", "")
