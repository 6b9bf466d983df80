"""`python -m bench.retrieval.storm`: documents come, change and go while the service is killed.

1,000 operations at random with 20 kills; then registry and index must agree to the chunk.
"""

import argparse
import asyncio
import sys
import time

from rich.console import Console

from services.retrieval.adapters.wordllama import WordllamaEmbedder
from tests.backends.rabbitmq import rabbitmq
from tests.retrieval.deployment import deployed
from tests.retrieval.storm import Storm, check_index, check_registry, rage, settled
from tests.waiting import wait_until


async def measure(storm: Storm) -> str:
    """Let it rage and check what is left; AssertionError if anything is wrong."""
    started = time.monotonic()
    async with (
        WordllamaEmbedder.open() as embedder,
        rabbitmq() as rabbit,
        deployed(rabbit) as deployment,
    ):
        account = await rage(deployment, storm)
        await wait_until(lambda: settled(deployment), timeout=120.0, every=0.1)
        async with deployment.user() as user:
            faults = (await user.check()).fault_count
        await check_registry(deployment, account)
        await deployment.process.stop()
        chunks = await check_index(deployment, embedder=embedder.name, dimension=embedder.dimension)
    held = sum(map(len, account.held.values()))
    return (
        f"{account.done} operations, {storm.kills} kills, {account.repeated} calls repeated, in "
        f"{time.monotonic() - started:.0f} s: {held} references, {chunks} chunks, all as they must "
        f"be; {faults} faults"
    )


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    storm = Storm(operations=options.operations, kills=options.kills, seed=options.seed)
    Console().print(asyncio.run(measure(storm)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
