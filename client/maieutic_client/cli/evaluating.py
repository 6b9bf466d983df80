"""`maieutic docs eval`: how well documents are searched."""

from collections.abc import Sequence
from typing import IO

import click

from maieutic_client.cli.running import Exit, run
from maieutic_client.cli.screen import Screen
from maieutic_client.cli.target import Target, connected, target_options
from maieutic_client.evaluation import (
    LOOKED_AT,
    BadQuestions,
    Quality,
    Question,
    place_of,
    read_questions,
)


@click.command("eval")
@click.argument("file", type=click.File(encoding="utf-8"))
@target_options
def evaluate(*, target: Target, file: IO[str]) -> None:
    """Measure how well your documents are searched.

    By recall and mean reciprocal rank.

    FILE holds labelled questions, a line of JSON each:
    {"question": ..., "document": its name, "passage": words of the text that answers}.
    """
    try:
        questions = read_questions(file)
    except (BadQuestions, UnicodeDecodeError) as error:
        raise click.BadParameter(str(error), param_hint="FILE") from error
    run(_evaluate(target, questions))


async def _evaluate(target: Target, questions: Sequence[Question]) -> int:
    screen = Screen()
    async with connected(target) as client:
        names = {document.name async for document in client.documents.list()}
        missing = sorted({one.document for one in questions} - names)
        if missing:
            screen.problem(f"error: these documents are to be added first: {', '.join(missing)}")
            return Exit.WRONG_INPUT
        places = []
        with screen.progress("asking", len(questions)) as steps:
            for one in questions:
                passages = await client.documents.search(one.question, limit=LOOKED_AT)
                places.append(place_of(one, passages))
                steps.done()
    quality = Quality(places=places)
    rows = [(f"recall@{most}", f"{quality.recall(most):.3f}") for most in (1, 5, LOOKED_AT)]
    rows += [(f"MRR@{LOOKED_AT}", f"{quality.mrr:.3f}"), ("questions", str(len(questions)))]
    screen.table(("FIGURE", "VALUE"), rows)
    return Exit.DONE
