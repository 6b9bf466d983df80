"""A real gateway in front of the fake services."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.gateway.adapters.key_file import KeyFile, add_key
from services.gateway.main import ADMIN, gateway_service
from services.gateway.model import KeyHolder
from services.gateway.settings import GatewaySettings
from services.runtime.keyring import KeyRing
from services.runtime.server import RunningServer, ServerOptions, serving
from tests.fakes.artifacts import Shelf, register_artifacts
from tests.fakes.conversations import Conversations
from tests.fakes.dead_letters import DeadLetters, register_dead_letters
from tests.fakes.documents import Library, register_documents
from tests.fakes.quarantine import Quarantine, register_quarantine
from tests.fakes.session_service import register_conversations


@dataclass(frozen=True, kw_only=True)
class Stack:
    """What a test holds of a running gateway."""

    address: str
    key: str
    """Of ann, at tenant acme."""
    stranger_key: str
    """Of ann too, at another tenant."""
    backend_key: str
    """Of acme's backend, which may act for users."""
    admin_key: str
    """Of whoever runs it all."""
    keys_file: Path
    conversations: Conversations
    library: Library
    quarantine: Quarantine
    dead_letters: DeadLetters
    shelf: Shelf
    gateway: RunningServer
    session: RunningServer
    retrieval: RunningServer


@asynccontextmanager
async def gateway_stack(folder: Path, **settings: object) -> AsyncIterator[Stack]:
    """Run the gateway and the services behind it; *settings* replaces those of the gateway."""
    keys = KeyRing.generate(["gateway"])
    signer, verifier = keys.signer("gateway"), keys.verifier()
    conversations, library, quarantine = Conversations(), Library(), Quarantine()
    letters, shelf = DeadLetters(), Shelf()
    registers = (
        register_conversations(conversations),
        register_quarantine(quarantine),
        register_dead_letters(letters),
        register_artifacts(shelf),
    )
    keys_file = folder / "api-keys.jsonl"
    key = add_key(keys_file, KeyHolder(tenant="acme", user="ann"))
    stranger = add_key(keys_file, KeyHolder(tenant="zenith", user="ann"))
    backend = KeyHolder(tenant="acme", user="backend", may_act_for_users=True)
    quick = ServerOptions(grace=0.5, stream_grace=0.1)
    async with (
        serving(quick, _all_of(*registers), verifier=verifier) as session,
        serving(quick, register_documents(library), verifier=verifier) as retrieval,
        gateway_service(
            GatewaySettings(
                **{  # type: ignore[arg-type] # a test names what it replaces
                    "server": quick,
                    "session_address": session.address,
                    "retrieval_address": retrieval.address,
                    **settings,
                }
            ),
            keys=await KeyFile.open(keys_file, check_every=0.0),
            signer=signer,
        ) as gateway,
    ):
        yield Stack(
            address=gateway.address,
            key=key,
            stranger_key=stranger,
            backend_key=add_key(keys_file, backend),
            admin_key=add_key(keys_file, ADMIN),
            keys_file=keys_file,
            conversations=conversations,
            library=library,
            quarantine=quarantine,
            dead_letters=letters,
            shelf=shelf,
            gateway=gateway,
            session=session,
            retrieval=retrieval,
        )


Register = Callable[[grpc.aio.Server], Sequence[str]]


def _all_of(*registers: Register) -> Register:
    def register(server: grpc.aio.Server) -> Sequence[str]:
        return [name for one in registers for name in one(server)]

    return register
