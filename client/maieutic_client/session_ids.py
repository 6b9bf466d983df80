"""The one place that knows in which shapes a session may be given."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from maieutic.v1.session_service_pb2 import Session

SessionLike: TypeAlias = Session | Mapping[str, Any] | str
"""A session, its id, or a mapping that has the id as `session_id`, as `id` or in its `session`."""

_KEYS = ("session_id", "id")
_NESTED = "session"
_EXPECTED = "a Session, its id, or a mapping with one of the keys session_id, id, session"


def session_id_of(session: SessionLike) -> str:
    """Return the id of a session in any of its shapes.

    Raises TypeError for anything else, and ValueError for an id that is empty and for a mapping
    that names two different sessions.
    """
    if isinstance(session, Mapping):
        return _id_in(session)
    return _plain(session)


def _id_in(mapping: Mapping[str, Any]) -> str:
    found = {key: _plain(mapping[key], key) for key in _KEYS if key in mapping}
    if _NESTED in mapping:
        nested = mapping[_NESTED]
        # One level only: what is nested deeper is some other structure.
        inner = isinstance(nested, Mapping) and _NESTED not in nested
        found[_NESTED] = _id_in(nested) if inner else _plain(nested, _NESTED)
    if not found:
        raise TypeError(f"expected {_EXPECTED}, got a mapping with {_shown(mapping)}")
    if len(set(found.values())) > 1:
        raise ValueError(f"the keys {', '.join(found)} of the mapping name different sessions")
    return next(iter(found.values()))


def _plain(value: object, key: str = "") -> str:
    """Return the id of a session that is in no mapping, or stands under *key* in one."""
    name = value.session_id if isinstance(value, Session) else value
    where = f" under the key {key!r}" if key else ""
    if not isinstance(name, str):
        raise TypeError(f"expected {_EXPECTED}, got {type(value).__name__}{where}")
    if not name:
        raise ValueError(f"expected {_EXPECTED}, got an empty id{where}")
    return name


def _shown(mapping: Mapping[str, Any]) -> str:
    keys = ", ".join(sorted(map(str, mapping))[:5])
    return f"the keys {keys}" if keys else "no keys"
