import aio_pika
from aio_pika.exceptions import QueueEmpty

from tests.backends.process import accepts
from tests.backends.rabbitmq import RabbitNode, rabbitmq
from tests.waiting import wait_until

QUEUE = "kept"


async def test_a_confirmed_message_outlives_a_restart_and_a_kill_frees_the_port() -> None:
    async with rabbitmq() as node:
        await publish(node, b"here")
        await node.restart()
        await wait_until(lambda: holds(node, b"here"), timeout=30)
        await node.kill9()
        assert not node.running
        assert not await accepts(node.port, b"AMQP\x00\x00\x09\x01", b"\x01")


async def publish(node: RabbitNode, body: bytes) -> None:
    async with await aio_pika.connect(node.url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(body), QUEUE)


async def holds(node: RabbitNode, body: bytes) -> bool:
    """A get that comes before the queue has its leader is never answered, hence the timeout."""
    async with await aio_pika.connect(node.url) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(QUEUE, ensure=False)
        try:
            message = await queue.get(timeout=2)
        except (TimeoutError, QueueEmpty):
            return False
        return message.body == body
