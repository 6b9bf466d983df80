"""What of a session's findings holds, and what the user has still to decide. Pure."""

from collections.abc import Sequence

from maieutic.v1.specification_pb2 import Conflict, Specification
from maieutic.v1.turn_service_pb2 import Findings


def standing_specifications(found: Findings) -> Sequence[Specification]:
    """Return what the user has settled and not given up, in the order in which it was found."""
    return [one for one in found.specifications if not one.withdrawn]


def open_conflicts(found: Findings) -> Sequence[Conflict]:
    """Return the conflicts that are undecided, and of which both sides hold."""
    standing = {one.specification_id for one in standing_specifications(found)}
    return [
        one
        for one in found.conflicts
        if not one.HasField("resolution")
        and {one.first.specification_id, one.second.specification_id} <= standing
    ]
