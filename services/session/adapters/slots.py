"""Which node of a cluster has which slots, and which slot a command is about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.crc import key_slot

from services.session.adapters.address import Place
from services.session.adapters.link import Command

_KEYLESS = frozenset({"TIME", "INFO", "PING", "ECHO", "PUBLISH", "MULTI", "EXEC"})
_KEY_IS_SECOND = frozenset({"MEMORY", "OBJECT", "XINFO"})
_ASKING: Command = ("ASKING",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """A node's view of its cluster."""

    ranges: Sequence[tuple[int, int, Place]]
    """First slot, last slot, and the primary that has them."""
    nodes: Sequence[Place]
    """All nodes, replicas, too."""
    served: bool
    """Whether the cluster takes itself for healthy, as far as this node sees."""


def shares_of(asked: Place, info: bytes, slots: Sequence[Any]) -> Shares:
    """Read CLUSTER INFO and CLUSTER SLOTS, as the node that was *asked* answered them."""
    ranges, nodes = [], dict.fromkeys([asked])
    for first, last, *members in slots:
        places = [_place(asked, member[0], member[1]) for member in members]
        ranges.append((first, last, places[0]))
        nodes.update(dict.fromkeys(places))
    return Shares(ranges=ranges, nodes=list(nodes), served=b"cluster_state:ok" in info)


def _place(asked: Place, host: bytes | None, port: int) -> Place:
    # A node that does not know its own address means the one at which it was asked.
    return Place(host.decode() if host else asked.host, port)


@dataclass(slots=True, kw_only=True)
class Unit:
    """Commands that go to one node together: one, or those from MULTI to EXEC."""

    commands: Sequence[Command]
    slot: int | None
    """None if any node will do."""
    moving_to: Place | None = None
    """The node that gets the slot just now, if the one that has it does not have the keys."""
    replies: Sequence[Any] = field(default_factory=list)

    def sent(self) -> Sequence[Command]:
        """Return the commands as they are sent."""
        return [_ASKING, *self.commands] if self.moving_to else self.commands

    def take(self, replies: Iterator[Any]) -> None:
        """Take the replies to what was sent off the front."""
        if self.moving_to:
            next(replies)
        self.replies = [next(replies) for _ in self.commands]


def units_of(commands: Sequence[Command]) -> Iterator[Unit]:
    """Return the commands in units, in their order."""
    block: list[Command] = []
    for command in commands:
        block.append(command)
        if block[0][0] != "MULTI" or command[0] == "EXEC":
            yield Unit(commands=block, slot=_slot(block))
            block = []


def _slot(commands: Sequence[Command]) -> int | None:
    for name, *words in commands:
        if name not in _KEYLESS:
            key = words[1] if name in _KEY_IS_SECOND else words[0]
            return key_slot(key if isinstance(key, bytes) else str(key).encode())
    return None
