"""`python -m bench.retrieval.storage`: what 100 users with 50 chats each over 10 documents store.

Against one session per chat, each with copies of its own: what one user with one chat stores, so
many times. `--quick` takes a tenth of the users. Writes storage_ratio to
build/bench/retrieval.json.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.retrieval.quality import RESULT, write
from services.retrieval.adapters.wordllama import WordllamaEmbedder
from tests.retrieval.corpus import descriptions
from tests.retrieval.crowd import Cost, cost_of
from tests.retrieval.running import CountingEmbedder

USERS, CHATS, DOCUMENTS = 100, 50, 10
TARGET = 0.002


async def measure(users: int) -> tuple[Cost, Cost]:
    """Return the cost of one user with one chat, and that of all."""
    texts = descriptions(DOCUMENTS)
    with tempfile.TemporaryDirectory(prefix="storage-") as folder:
        async with WordllamaEmbedder.open() as wordllama:
            embedder = CountingEmbedder(wordllama)
            alone = await cost_of(Path(folder) / "alone", embedder, texts, users=1, chats=1)
            all_ = await cost_of(Path(folder) / "all", embedder, texts, users=users, chats=CHATS)
    return alone, all_


def main() -> int:
    """Measure, print, and write the ratio of a full run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the users")
    quick = parser.parse_args().quick
    users = USERS // 10 if quick else USERS
    alone, all_ = asyncio.run(measure(users))
    ratio = all_.bytes / (alone.bytes * users * CHATS)
    table = Table("", "bytes", "chunks embedded")
    table.add_row("one chat of one user", f"{alone.bytes:,}", f"{alone.embedded:,}")
    copies = users * CHATS
    table.add_row(
        f"{copies:,} chats with copies", f"{alone.bytes * copies:,}", f"{alone.embedded * copies:,}"
    )
    table.add_row(f"{copies:,} chats as stored", f"{all_.bytes:,}", f"{all_.embedded:,}")
    console = Console()
    console.print(table)
    console.print(f"storage ratio {ratio:.4%}; distinct chunks {all_.distinct:,}")
    if not quick:
        write({"storage_ratio": ratio})
        console.print(f"written to {RESULT}")
    good = all_.embedded == all_.distinct and all_.found == copies
    return 0 if good and (quick or ratio <= TARGET) else 1


if __name__ == "__main__":
    sys.exit(main())
