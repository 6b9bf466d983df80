"""Key pairs for internal tokens, where one process makes them for all services."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from services.runtime.identity import Signer, Verifier


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """The services' Ed25519 keys in PEM, private and public."""

    private: dict[str, str]
    public: dict[str, str]

    @classmethod
    def generate(cls, services: Sequence[str]) -> Self:
        """Make a fresh pair for each service."""
        private, public = {}, {}
        for service in services:
            key = Ed25519PrivateKey.generate()
            pem, none = Encoding.PEM, NoEncryption()
            private[service] = key.private_bytes(pem, PrivateFormat.PKCS8, none).decode()
            shown = key.public_key().public_bytes(pem, PublicFormat.SubjectPublicKeyInfo)
            public[service] = shown.decode()
        return cls(private=private, public=public)

    def signer(self, service: str) -> Signer:
        """Return what signs the service's calls."""
        return Signer(service, self.private[service])

    def verifier(self) -> Verifier:
        """Return what verifies the calls of all these services."""
        return Verifier(self.public)
