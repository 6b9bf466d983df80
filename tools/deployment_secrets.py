"""Make the secrets of a deployment: for compose.yaml, and to put into Kubernetes' Secrets.

Run from the checkout: .venv/bin/python tools/deployment_secrets.py [FOLDER]. In the folder are
  identity/  the services' key pairs and the id key; its files are the keys of a Kubernetes Secret
  api-keys/  the hashes of what callers present
  admin-key  the first API key itself
  stores/    URLs and passwords of the stores that compose.yaml starts
A folder that is there already is left as it is: sessions are found by the id key.
"""

import argparse
import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from services.gateway.adapters.key_file import add_key
from services.gateway.main import ADMIN
from services.runtime.keyring import KeyRing

SERVICES = ("gateway", "session", "retrieval", "agents", "persistence")
DEFAULT = Path(__file__).resolve().parent.parent / "deploy" / "secrets"
PRIVATE_FOLDER = 0o700
READABLE = 0o644
"""Containers read the files as another user; on the machine the folder keeps others out."""


def main() -> None:
    """Make the folder, or say that it is there."""
    parser = argparse.ArgumentParser(description="Make the secrets of a deployment.")
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT)
    folder: Path = parser.parse_args().folder
    if folder.exists():
        print(f"{folder} is there already: nothing was changed")
        return
    make_secrets(folder)
    print(f"made {folder}; the first API key is in {folder / 'admin-key'}")


def make_secrets(folder: Path) -> None:
    """Write fresh secrets into a new folder that only its owner can enter."""
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True)
    keys_file = folder / "api-keys" / "api-keys.jsonl"
    key = add_key(keys_file, ADMIN)
    keys_file.chmod(READABLE)
    _write(folder, {"admin-key": f"{key}\n"})
    _write(folder / "identity", _identity())
    _write(folder / "stores", _stores())


def _identity() -> Mapping[str, str]:
    keys = KeyRing.generate(SERVICES)
    return {
        **{f"{service}.pem": keys.private[service] for service in SERVICES},
        "public-keys.json": json.dumps(keys.public),
        "id-key": secrets.token_hex(24),
    }


def _stores() -> Mapping[str, str]:
    redis, rabbitmq, postgres = (secrets.token_hex(24) for _ in range(3))
    valkey = [
        f"requirepass {redis}",
        "dir /data",
        "appendonly yes",
        # What is live must not make room for what is newer.
        "maxmemory-policy noeviction",
    ]
    broker = ["default_user = maieutic", f"default_pass = {rabbitmq}"]
    return {
        "redis-password": redis,
        "redis-url": f"redis://:{redis}@redis:6379/0",
        "valkey.conf": "\n".join([*valkey, ""]),
        "rabbitmq-url": f"amqp://maieutic:{rabbitmq}@rabbitmq:5672/",
        "rabbitmq.conf": "\n".join([*broker, ""]),
        "postgres-password": postgres,
        "postgres-url": f"postgresql://maieutic:{postgres}@postgres:5432/maieutic",
    }


def _write(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        file = folder / name
        file.write_text(text, encoding="utf-8")
        file.chmod(READABLE)


if __name__ == "__main__":
    main()
