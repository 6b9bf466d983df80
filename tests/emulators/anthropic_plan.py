"""What the emulator of Anthropic's API does with requests, beyond answering them well."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

Break = Literal["", "reset", "end", "error", "malformed", "hang"]


class BadPlan(Exception):
    """The plan cannot be read; the message says why."""


@dataclass(kw_only=True)
class Call:
    """One call of a tool."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    input: Any = field(default_factory=dict)
    json: str = ""
    """The input as it is sent, instead of the one above: it need be no JSON."""


@dataclass(kw_only=True)
class Rule:
    """What is done with the requests it is for. Times in seconds."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    contains: str = ""
    """Only requests whose last user message contains this."""
    instructed: str = ""
    """Only requests whose instructions contain this."""
    above: int = 0
    """Only while more requests than this are under way."""
    every: Annotated[int, Field(ge=1)] = 1
    """Of the requests it is for, each so-manyth."""
    times: int | None = None
    """So many requests, then no more; None for all."""

    status: Annotated[int, Field(ge=200, le=599)] = 200
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

    thinking: str = ""
    """The model's thoughts, in a block before its answer."""
    text: str | None = None
    """The answer, instead of the one made from the request."""
    calls: list[Call] = field(default_factory=list)
    """Tools that are called at the same time, after the text if there is one."""
    words: Annotated[int, Field(ge=1)] = 1
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

    def applies(self, text: str, instructions: str, active: int) -> bool:
        """Say whether the rule is for this request, and count it."""
        spent = self.times is not None and self.used >= self.times
        if spent or self.contains not in text or active <= self.above:
            return False
        if self.instructed not in instructions:
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.used += 1
        return True


@dataclass(kw_only=True)
class _Plan:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    rules: list[Rule]


def read_plan(value: Any) -> list[Rule]:
    """Read {"rules": [...]}; the first rule that applies to a request decides. Raises BadPlan."""
    try:
        return TypeAdapter(_Plan).validate_python(value).rules
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        example = 'a plan is an object as {"rules": [{"status": 529, "times": 2}]}'
        raise BadPlan("; ".join([example, *problems])) from error
