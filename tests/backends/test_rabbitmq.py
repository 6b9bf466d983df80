import aio_pika

from tests.backends.rabbitmq import rabbitmq

QUEUE = "kept"


async def test_a_confirmed_message_is_still_there_after_a_kill() -> None:
    async with rabbitmq() as node:
        async with await aio_pika.connect(node.url) as connection:
            channel = await connection.channel()
            await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
            await channel.default_exchange.publish(aio_pika.Message(b"here"), QUEUE)
        await node.kill9()
        assert not node.running
        await node.start()
        async with await aio_pika.connect(node.url) as connection:
            channel = await connection.channel()
            message = await (await channel.get_queue(QUEUE)).get(timeout=10)
            assert message is not None
            assert message.body == b"here"
