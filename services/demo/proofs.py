"""What the demonstration expects, and whether it held."""

from dataclasses import dataclass, field

from maieutic.v1.turn_service_pb2 import Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """One expectation."""

    claim: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTiming:
    """When a turn reached its stages, in milliseconds after it was asked; None: not seen."""

    name: str
    accepted: float | None
    first_token: float | None
    done: float | None
    archived: float | None


@dataclass(slots=True)
class Proofs:
    """All that was expected and measured."""

    proofs: list[Proof] = field(default_factory=list)
    timings: list[TurnTiming] = field(default_factory=list)

    def expect(self, claim: str, *, held: bool, detail: str) -> bool:
        """Note whether a claim held; returns it."""
        self.proofs.append(Proof(claim=claim, held=held, detail=detail))
        return held

    @property
    def all_held(self) -> bool:
        """Whether the demonstration succeeded."""
        return bool(self.proofs) and all(proof.held for proof in self.proofs)


def archived_after(turn: Turn) -> float | None:
    """Return the milliseconds from a turn's acceptance to the archive's confirmation."""
    if not turn.HasField("archive_time"):
        return None
    return float(turn.archive_time.ToMilliseconds() - turn.create_time.ToMilliseconds())
