"""What the emulator of Anthropic's API does with requests, beyond answering them well."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

Break = Literal["", "reset", "end", "error", "malformed", "hang"]


class BadPlan(Exception):
    """The plan cannot be read; the message says why."""


@dataclass(kw_only=True)
class Rule:
    """What is done with the requests it is for. Times in seconds."""

    contains: str = ""
    """Only requests whose last user message contains this."""
    above: int = 0
    """Only while more requests than this are under way."""
    every: int = 1
    """Of the requests it is for, each so-manyth."""
    times: int | None = None
    """So many requests, then no more; None for all."""

    status: int = 200
    """Other than 200: an error with this status and the type that belongs to it."""
    error_type: str = ""
    """Type of the error, instead of the one that belongs to the status."""
    message: str = "the plan says so"
    """Of the error."""
    retry_after: float | None = None
    """The header of an error."""

    header_delay: float = 0.0
    """Before the response begins."""
    first_delay: float = 0.0
    """After the beginning of the stream, before its first delta."""
    delay: float = 0.0
    """Before each further delta."""
    ping: float = 0.0
    """Ping so often during the delays; 0 for never."""

    text: str | None = None
    """The answer, instead of the one made from the request."""
    words: int = 1
    """So many in one delta."""
    stop_reason: str = ""
    """Instead of the usual one."""
    refusal: str = ""
    """Explanation of a refusal."""

    breaks: Break = ""
    """How the stream breaks: reset (of the connection), end (of the response, before it is
    complete), error (an event), malformed (data that is no JSON) or hang (nothing comes)."""
    after: int = 0
    """So many deltas come before the break."""

    seen: int = field(default=0, init=False)
    used: int = field(default=0, init=False)

    def applies(self, text: str, active: int) -> bool:
        """Say whether the rule is for this request, and count it."""
        spent = self.times is not None and self.used >= self.times
        if spent or self.contains not in text or active <= self.above:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.used += 1
        return True


def read_plan(value: Any) -> list[Rule]:
    """Read {"rules": [...]}; the first rule that applies to a request decides. Raises BadPlan."""
    rules = value.get("rules") if isinstance(value, Mapping) else None
    if not isinstance(rules, Sequence):
        raise BadPlan('a plan is an object as {"rules": [{"status": 529, "times": 2}]}')
    return [_read_rule(rule) for rule in rules]


def _read_rule(value: Any) -> Rule:
    known = {one.name for one in fields(Rule) if one.init}
    if not isinstance(value, Mapping) or not value.keys() <= known:
        raise BadPlan(f"a rule is an object with some of {', '.join(sorted(known))}, not {value}")
    rule = Rule(**value)
    if rule.breaks not in get_args(Break):
        raise BadPlan(f"a stream breaks as one of {get_args(Break)[1:]}, not as {rule.breaks!r}")
    return rule
