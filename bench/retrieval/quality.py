"""`python -m bench.retrieval.quality`: how well each embedder finds, alone and with words.

The corpus is that of the demonstration, cut as the service cuts; the questions are labelled by hand
(questions.jsonl). `--onnx FOLDER` measures that sentence transformer besides. Writes recall_at_5 of
the service's default to build/bench/retrieval.json.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from maieutic.v1 import document_service_pb2 as pb
from maieutic_client.evaluation import LOOKED_AT, Quality, Question, read_questions
from services.demo.corpus import installed_texts
from services.retrieval.adapters.embedder import open_embedder
from services.retrieval.model import Chunk, Splitter, normalised
from services.retrieval.ports import Embedder, Hit
from services.retrieval.ranking import Wanted, fused, word_scores
from services.retrieval.settings import PineconeOptions, RetrievalSettings

QUESTIONS = Path(__file__).with_name("questions.jsonl")
RESULT = Path("build/bench/retrieval.json")
LEAST_SPEED = 300
"""Chunks a second of processor time: what is slower is not the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to search."""

    name: str
    quality: Quality
    chunks_a_second: float | None = None


class Collection:
    """The chunks of all documents, and the questions about them."""

    def __init__(self, embedder_name: str = "") -> None:
        settings = RetrievalSettings()
        splitter = Splitter(
            embedder=embedder_name, size=settings.chunk_characters, overlap=settings.chunk_overlap
        )
        self.questions = read_questions(QUESTIONS.read_text("utf-8").splitlines())
        self.chunks: list[tuple[str, Chunk]] = [
            (text.name, chunk)
            for text in installed_texts()
            for chunk in splitter.chunks(normalised(text.content.encode()), _format(text.name))
        ]

    def stale(self) -> list[Question]:
        """Return the questions whose passage is in no chunk (any more)."""
        return [one for one in self.questions if self._place(one, range(len(self.chunks))) is None]

    def quality(self, found: Sequence[Sequence[int]]) -> Quality:
        """Judge the chunks that were found for each question, best first."""
        return Quality(
            places=[
                self._place(one, places[:LOOKED_AT])
                for one, places in zip(self.questions, found, strict=True)
            ]
        )

    def _place(self, question: Question, places: Sequence[int]) -> int | None:
        for rank, place in enumerate(places, start=1):
            name, chunk = self.chunks[place]
            if question.answered_by(name, chunk.text):
                return rank
        return None


def by_words(collection: Collection) -> Row:
    """Search by BM25 alone."""
    texts = [chunk.text for _, chunk in collection.chunks]
    scores = np.array([word_scores(one.question, texts) for one in collection.questions])
    return Row(name="BM25", quality=collection.quality(_best(scores)))


async def by_embedder(collection: Collection, name: str, embedder: Embedder) -> list[Row]:
    """Search by vectors alone, and as the service does, by words besides."""
    texts = [chunk.text for _, chunk in collection.chunks]
    await embedder.embed(["the first call loads the model"])
    started = time.process_time()
    vectors = await embedder.embed(texts)
    speed = len(texts) / (time.process_time() - started)
    queries = await embedder.embed([one.question for one in collection.questions], query=True)
    scores = queries @ vectors.T
    nearest = _best(scores)
    both = [
        _fused(collection, one.question, places, scores[number])
        for number, (one, places) in enumerate(zip(collection.questions, nearest, strict=True))
    ]
    return [
        Row(name=name, quality=collection.quality(nearest), chunks_a_second=speed),
        Row(name=f"{name} and words", quality=collection.quality(both), chunks_a_second=speed),
    ]


def _fused(
    collection: Collection, query: str, places: Sequence[int], scores: Sequence[float]
) -> list[int]:
    hits = [
        Hit(document_id="", position=place, chunk=collection.chunks[place][1], score=scores[place])
        for place in places[: Wanted(query=query).fetch]
    ]
    return [hit.position for hit in fused(query, hits)]


def _best(scores: np.ndarray) -> list[list[int]]:
    order: list[list[int]] = np.argsort(-scores, axis=1, kind="stable").tolist()
    return order


def _format(name: str) -> pb.DocumentFormat.ValueType:
    return pb.DOCUMENT_FORMAT_MARKDOWN if name.endswith(".md") else pb.DOCUMENT_FORMAT_TEXT


async def measure(collection: Collection, urls: Sequence[str]) -> list[Row]:
    """Return a row for each way to search."""
    rows = [by_words(collection)]
    for url in urls:
        async with open_embedder(url, PineconeOptions(), cache_bytes=0) as embedder:
            rows += await by_embedder(collection, url.partition(":")[0], embedder)
    return rows


def write(figures: dict[str, float]) -> None:
    """Add the figures to those of other measurements."""
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps({**known, **figures}, indent=2) + "\n")


def main() -> int:
    """Measure, print a table, and write the figure of the default."""
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval.quality", description=__doc__)
    parser.add_argument("--onnx", type=Path, help="folder of a sentence transformer")
    folder = parser.parse_args().onnx
    default = RetrievalSettings().embedder
    collection, console = Collection(), Console()
    urls = [default, *([f"onnx://{folder.absolute()}"] if folder else [])]
    rows = asyncio.run(measure(collection, urls))
    table = Table("search by", "recall@1", "recall@5", f"MRR@{LOOKED_AT}", "chunks/s of one core")
    for row in rows:
        figures = (row.quality.recall(1), row.quality.recall(5), row.quality.mrr)
        speed = f"{row.chunks_a_second:.0f}" if row.chunks_a_second else "-"
        table.add_row(row.name, *(f"{figure:.3f}" for figure in figures), speed)
    console.print(table)
    console.print(f"{len(collection.questions)} questions, {len(collection.chunks)} chunks")
    fast = [row for row in rows if (row.chunks_a_second or 0) >= LEAST_SPEED]
    best = max(fast, key=lambda row: row.quality.recall(5))
    console.print(f"The best of at least {LEAST_SPEED} chunks/s: {best.name}")
    write({"recall_at_5": round(rows[2].quality.recall(5), 4)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
