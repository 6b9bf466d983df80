"""What the emulator of Pinecone does wrong, and to which requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any, Literal, get_args

Fault = Literal["close", "lose", "reset", "cut", "status"]


class BadPlan(Exception):
    """The plan cannot be read; the message says why."""


@dataclass(kw_only=True)
class Rule:
    """What is done with the requests it is for. Times in seconds."""

    path: str = ""
    """Only requests whose path ends so."""
    share: float = 1.0
    """Of the requests it is for, this share, drawn by the seed."""
    seed: int = 0
    times: int | None = None
    """So many requests, then no more; None for all."""

    delay: float = 0.0
    """Before the request is looked at."""
    fault: Fault | None = None
    """close: the connection, before the request is done; lose: the answer, after it is done;
    reset: as close, by RST; cut: half of the answer comes; status: an error is answered."""
    status: int = 503
    retry_after: float | None = None
    """The header of an error."""

    used: int = field(default=0, init=False)

    def applies(self, path: str, request: bytes, copy: int) -> bool:
        """Say whether the rule is for this *copy* of the request, counted from 0, and note its use.

        Whether a copy is among the share depends on the seed, the request and its number alone, not
        on what comes in between. So a plan does the same to an operation however many others run
        beside it.
        """
        if not path.endswith(self.path) or (self.times is not None and self.used >= self.times):
            return False
        drawn = sha256(b"%d %d " % (self.seed, copy) + request).digest()
        if int.from_bytes(drawn[:8], "big") / 2**64 >= self.share:
            return False
        self.used += 1
        return True


def read_plan(value: Any) -> list[Rule]:
    """Read {"rules": [...]}; the first rule that applies to a request decides. Raises BadPlan."""
    rules = value.get("rules") if isinstance(value, Mapping) else None
    if not isinstance(rules, Sequence):
        raise BadPlan('a plan is an object as {"rules": [{"fault": "reset", "share": 0.4}]}')
    return [_read_rule(rule) for rule in rules]


def _read_rule(value: Any) -> Rule:
    known = {one.name for one in fields(Rule) if one.init}
    if not isinstance(value, Mapping) or not set(value) <= known:
        raise BadPlan(f"a rule is an object of {', '.join(sorted(known))}")
    if value.get("fault") not in (None, *get_args(Fault)):
        raise BadPlan(f"a fault is one of {', '.join(get_args(Fault))}")
    return Rule(**value)
