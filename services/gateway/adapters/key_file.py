"""API keys in a file of JSON lines, which holds their hashes only.

A line: {"sha256": "<64 hex digits>", "tenant": "acme", "user": "ann", "may_act_for_users": false,
"admin": false}
"""

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from services.gateway.model import KeyHolder

KEY_PREFIX = "mk_"
KEY_BYTES = 32
PRIVATE = 0o600
CHECK_SECONDS = 1.0
FINGERPRINT_DIGITS = 8
SHA256_DIGITS = 64

log = logging.getLogger(__name__)

Holders = Mapping[str, KeyHolder]


class BadKeyFile(Exception):
    """The file cannot be read, or a line of it is wrong; names the file and the line."""


class KeyFile:
    """The `KeyStore` of a file. It is read again when it has changed, looked at once a second."""

    def __init__(self, path: Path, *, check_every: float = CHECK_SECONDS) -> None:
        self._path = path
        self._check_every = check_every
        self._seen: object = None
        self._check_at = 0.0
        self._candidates: dict[str, list[tuple[str, KeyHolder]]] = {}

    @classmethod
    async def open(cls, path: Path, *, check_every: float = CHECK_SECONDS) -> Self:
        """Read the file, where there is one; raises BadKeyFile."""
        keys = cls(path, check_every=check_every)
        await asyncio.to_thread(keys._refresh)
        return keys

    async def holder(self, key: str) -> KeyHolder | None:
        """Return whom the key was given to, or None."""
        if time.monotonic() >= self._check_at:
            self._check_at = time.monotonic() + self._check_every
            await self._refresh_or_keep()
        digest = _digest(key)
        # A lookup by the whole hash would tell by its time how much of it is right.
        for known, holder in self._candidates.get(digest[:FINGERPRINT_DIGITS], ()):
            if hmac.compare_digest(known, digest):
                return holder
        return None

    async def _refresh_or_keep(self) -> None:
        try:
            await asyncio.to_thread(self._refresh)
        except BadKeyFile as error:
            # A slip in an edit must not lock every caller out.
            log.error("the API keys stay as they were: %s", error)  # noqa: TRY400 - says it all

    def _refresh(self) -> None:
        if (version := _version(self._path)) == self._seen:
            return
        holders = read_keys(self._path)
        candidates: dict[str, list[tuple[str, KeyHolder]]] = {}
        for digest, holder in holders.items():
            candidates.setdefault(digest[:FINGERPRINT_DIGITS], []).append((digest, holder))
        self._candidates, self._seen = candidates, version


def read_keys(path: Path) -> Holders:
    """Return the holders by the hash of their key; none if there is no file. Raises BadKeyFile."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BadKeyFile(f"{path}: {error}") from error
    return dict(_parsed(path, lines))


def add_key(path: Path, holder: KeyHolder, *, key: str | None = None) -> str:
    """Give *holder* a key, a new one if none is named, and return it; the file keeps its hash.

    Blocks. Raises BadKeyFile rather than overwrite a file that it cannot read.
    """
    key = key or new_key()
    holders = {**read_keys(path), _digest(key): holder}
    _write_private(path, "".join(_line(digest, holder) for digest, holder in holders.items()))
    return key


def ensure_key(path: Path, key_file: Path, holder: KeyHolder) -> str:
    """Make the key in *key_file* valid for *holder* and return it; make one if there is none.

    Blocks. Raises BadKeyFile if the file is there and holds no key.
    """
    if key_file.exists():
        key = key_file.read_text(encoding="utf-8").strip()
        if not key:
            raise BadKeyFile(f"{key_file} is empty: put a key in it, or remove it to get a new one")
    else:
        key = new_key()
        _write_private(key_file, f"{key}\n")
    if read_keys(path).get(_digest(key)) != holder:
        add_key(path, holder, key=key)
    return key


def new_key() -> str:
    """Return a key that nobody can guess."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def _digest(key: str) -> str:
    # Keys are long and random: a slow hash would add nothing.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _version(path: Path) -> object:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadKeyFile(f"{path}: {error}") from error
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _parsed(path: Path, lines: list[str]) -> Iterator[tuple[str, KeyHolder]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield _entry(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            problem = f"is not a key entry with sha256, tenant and user ({error})"
            raise BadKeyFile(f"{path}, line {number}: {problem}") from error


def _entry(entry: dict[str, object]) -> tuple[str, KeyHolder]:
    digest, tenant, user = (str(entry[name]) for name in ("sha256", "tenant", "user"))
    if len(digest) != SHA256_DIGITS or not (tenant and user):
        raise ValueError("sha256 has 64 hex digits; tenant and user are not empty")
    backend, admin = (entry.get(name, False) is True for name in ("may_act_for_users", "admin"))
    holder = KeyHolder(tenant=tenant, user=user, may_act_for_users=backend, admin=admin)
    return digest.lower(), holder


def _line(digest: str, holder: KeyHolder) -> str:
    entry = {
        "sha256": digest,
        "tenant": holder.tenant,
        "user": holder.user,
        "may_act_for_users": holder.may_act_for_users,
        "admin": holder.admin,
    }
    return f"{json.dumps(entry)}\n"


def _write_private(path: Path, text: str) -> None:
    """Replace the file at once, so that no reader sees half of it, and only its owner any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "w") as file:
        file.write(text)
    draft.replace(path)
