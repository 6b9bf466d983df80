"""What the command shows of values and fields that it knows, and of those of a newer server."""

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from maieutic.v1.artifact_pb2 import Artifact
from maieutic.v1.session_service_pb2 import SessionFrame, SessionStepFinished
from maieutic.v1.turn_service_pb2 import Findings, TurnKind, TurnOutcome, TurnState
from maieutic_client.cli.chat import _show_end
from maieutic_client.cli.coding import _told as told_of_code
from maieutic_client.cli.screen import Screen
from maieutic_client.cli.values import spoken
from maieutic_client.cli.watching import _told as told_of_session

NEWER = 99
"""A value that the next version may have."""


def filled(message: Message, field: FieldDescriptor) -> None:
    """Put something into the field, and into the first one of what it holds."""
    value = getattr(message, field.name)
    inner = value.add() if field.is_repeated else value
    inner.SetInParent()
    for name, one in type(inner).DESCRIPTOR.fields_by_name.items():
        if one.message_type is not None and one.is_repeated:
            getattr(inner, name).add()
        elif one.type == FieldDescriptor.TYPE_STRING and not one.is_repeated:
            setattr(inner, name, "something")


@pytest.mark.parametrize("state", [*TurnState.values(), NEWER])
def test_every_state_of_a_turn_has_a_word(
    state: TurnState.ValueType, capsys: pytest.CaptureFixture[str]
) -> None:
    word = spoken(TurnState.DESCRIPTOR, state)
    assert word
    assert "_" not in word
    frame = SessionFrame(turn_id="t")
    frame.turn_ended.outcome.state = state
    assert told_of_session(frame) == word
    outcome = TurnOutcome(state=state, reason="WHY")
    told_of_code(Screen(), outcome)
    _show_end(Screen(), outcome)
    shown = capsys.readouterr().err
    assert word == "completed" or shown.count(f"the turn is {word}") == 2


@pytest.mark.parametrize("kind", [*TurnKind.values(), NEWER])
def test_every_kind_of_turn_has_a_word(kind: TurnKind.ValueType) -> None:
    frame = SessionFrame(turn_id="t", kind=kind)
    frame.turn_accepted.SetInParent()
    word = told_of_session(frame)
    assert word
    assert "_" not in word
    assert word == (spoken(TurnKind.DESCRIPTOR, kind) if kind else "ask")


@pytest.mark.parametrize("field", list(Findings.DESCRIPTOR.fields), ids=lambda field: field.name)
def test_whatever_a_step_has_found_is_told_in_the_stream_of_its_session(
    field: FieldDescriptor,
) -> None:
    step = SessionStepFinished(step="one")
    filled(step.findings, field)
    frame = SessionFrame(turn_step_finished=step)
    told = told_of_session(frame)
    assert told.startswith("one: ")
    assert told != "one: nothing new"


def test_the_files_of_a_step_are_told_in_the_stream_of_its_session() -> None:
    step = SessionStepFinished(step="code_file:1", artifacts=[Artifact(path="main.py")])
    assert told_of_session(SessionFrame(turn_step_finished=step)) == "code_file:1: 1 files"
