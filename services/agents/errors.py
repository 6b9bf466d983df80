"""What can go wrong while a turn is run.

ModelError
├─ ModelUnavailable   try again later
│  ├─ ModelOverloaded  so should everybody
│  ├─ ModelSilent      the answer has ended without a word
│  └─ ModelMalformed  the answer has not the form that was asked for
├─ ModelCut           the answer has no end, and is of no use without
├─ ModelRefused       the model will not answer this
├─ CallRefused        the turn's budgets do not allow another call
├─ ModelUnending      the model asks and asks, and does not answer
└─ ModelRejected      the request can never succeed
   └─ ContextTooLarge  it is more than the model can read at once
ConversationUnreadable  what was said cannot be read now
ToolProblem           a tool cannot do what the model asks
NotDoable             an agent cannot do what the user asks
AnswerTooLarge        more was said than a turn may hold
LogBehind             the turn's log lacks frames that were recorded
TurnStopped
├─ TurnOver           another claim or an outcome stands: nothing is left to do here
├─ SessionSilent      the session service has not answered for long: somebody else may run it
└─ WorkerDraining     the process is about to end: hand the turn back
"""

from collections.abc import Sequence

from maieutic.bus.v1.bus_pb2 import TurnFinished


class ModelError(Exception):
    """A model gave no answer; the message may be shown to people."""


class ModelUnavailable(ModelError):
    """The model cannot answer now: overloaded, over a rate limit or out of reach."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which another try makes sense; None if the model did not say."""


class ModelOverloaded(ModelUnavailable):
    """Too much is asked of the model, by whomever: for other turns it is no better."""


class ModelSilent(ModelUnavailable):
    """The answer has ended without a word; another try may have one."""


class ModelMalformed(ModelUnavailable):
    """The answer has not the form that was asked for; another try may have it."""

    def __init__(self, places: Sequence[str]) -> None:
        wrong = ", ".join(places)
        super().__init__(f"The model's answer has not the form that was asked for: {wrong}.")


class ModelCut(ModelError):
    """The tokens of an answer ended before a form was filled in; so they would again."""

    def __init__(self) -> None:
        super().__init__(
            "The model's answer ended with its tokens before it was whole: ask for less at once, "
            "with a larger budget if there is one, or have the operator raise its MAX_TOKENS."
        )


class ModelRefused(ModelError):
    """The model declines to answer this request; asking again changes nothing."""


class CallRefused(ModelError):
    """The turn's budgets do not allow another call of a model."""


class ModelRejected(ModelError):
    """The request is invalid for the model, or the account may not make it."""


class ContextTooLarge(ModelRejected):
    """The request is more than the model can read at once."""


class ModelUnending(ModelError):
    """The model did not come to an end of its answer."""

    def __init__(self, rounds: int) -> None:
        super().__init__(
            f"The model did not end its answer in {rounds} rounds of tools: ask for less at once."
        )


class ConversationUnreadable(Exception):
    """What was said in the session cannot be read for the moment."""


class ToolProblem(Exception):
    """A tool cannot do what the model asks; the message is told to the model."""


class NotDoable(Exception):
    """An agent cannot do what the user asks; the message says what they can do about it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """UPPER_SNAKE, for programs."""


class AnswerTooLarge(Exception):
    """The agent says more than an answer may hold; the message may be shown to people."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(
            f"The answer grew over the limit answer_bytes, which is {most_bytes}: ask for a "
            "shorter one, or for a part of it."
        )


class LogBehind(Exception):
    """The turn's log lacks frames that were recorded: the live store has lost them."""


class TurnStopped(Exception):
    """The run of a turn ends here, without an outcome of its own."""


class TurnOver(TurnStopped):
    """Another claim or an outcome stands: ack the job."""

    def __init__(self, finished: TurnFinished | None = None) -> None:
        super().__init__("another claim or outcome stands")
        self.finished = finished
        """The outcome, if it has to be published once more before the ack."""


class SessionSilent(TurnStopped):
    """The session service has been silent for so long that the lease must be taken as lost."""


class WorkerDraining(TurnStopped):
    """The process stops before the turn could end."""
