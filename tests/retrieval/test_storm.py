"""Whatever is added, replaced and given up while the service dies: registry and index agree."""

from services.retrieval.adapters.wordllama import WordllamaEmbedder
from tests.backends.rabbitmq import RabbitNode
from tests.retrieval.deployment import deployed
from tests.retrieval.storm import Storm, check_index, check_registry, rage, settled
from tests.waiting import wait_until


async def test_counts_are_exact_and_no_vector_is_orphaned_or_missing_after_kills(
    rabbit_node: RabbitNode, wordllama: WordllamaEmbedder
) -> None:
    async with deployed(rabbit_node) as deployment:
        account = await rage(deployment, Storm(operations=120, kills=3))
        await wait_until(lambda: settled(deployment), timeout=60.0, every=0.05)
        assert account.done == 120
        assert account.repeated
        async with deployment.user() as user:
            checked = await user.check()
        assert checked.documents == len(set().union(*account.held.values()))
        assert (checked.documents_changing, checked.fault_count) == (0, 0)
        await check_registry(deployment, account)
        await deployment.process.stop()
        await check_index(deployment, embedder=wordllama.name, dimension=wordllama.dimension)
