"""How searches are judged."""

import json

import pytest

from maieutic.v1.document_service_pb2 import Passage
from maieutic_client.evaluation import BadQuestions, Quality, Question, place_of, read_questions

QUESTION = Question(question="How deep?", document="sea.md", passage="eleven  kilometres")


def passage(text: str, name: str = "sea.md") -> Passage:
    return Passage(document_name=name, text=text)


def test_the_first_passage_of_that_document_with_those_words_answers() -> None:
    right, wrong = passage("It is eleven\nkilometres deep."), passage("It is deep.")
    elsewhere = passage("eleven kilometres", "sky.md")
    assert place_of(QUESTION, [right, right]) == 1
    assert place_of(QUESTION, [wrong, elsewhere, right]) == 3
    assert place_of(QUESTION, [wrong, elsewhere]) is None


def test_recall_counts_what_is_near_the_top_and_rank_how_near() -> None:
    quality = Quality(places=[1, 4, None, 10])
    assert [quality.recall(most) for most in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert quality.mrr == pytest.approx((1 + 0.25 + 0.1) / 4)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2 is no JSON"),
        ("[]", "line 2 is no object of question, document, passage"),
        ('{"question": "a", "document": "b"}', "line 2 is no object"),
        ('{"question": "a", "document": "b", "passage": " "}', "line 2 has a field"),
        ('{"question": "a", "document": 3, "passage": "c"}', "line 2 has a field"),
    ],
)
def test_a_line_that_is_no_question_is_named(line: str, problem: str) -> None:
    good = json.dumps({"question": "a", "document": "b", "passage": "c"})
    assert read_questions([good, "\n"]) == [Question(question="a", document="b", passage="c")]
    with pytest.raises(BadQuestions, match=problem):
        read_questions([good, line])


def test_a_file_without_questions_is_refused() -> None:
    with pytest.raises(BadQuestions, match="no questions"):
        read_questions(["", "  "])
