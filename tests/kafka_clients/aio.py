"""aiokafka, as it is when nothing is configured: BOOTSTRAP APP PREFIX COUNT."""

import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

bootstrap, app, prefix, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])


async def main() -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for n in range(count):
            call = b'{"method":"increment","args":[1]}'
            await producer.send(f"{app}.commands", key=f"Counter/{prefix}-{n}".encode(), value=call)
        await producer.flush()
    consumer = AIOKafkaConsumer(
        f"{app}.replies",
        bootstrap_servers=bootstrap,
        group_id=f"{prefix}-readers",
        auto_offset_reset="earliest",
    )
    answered = set()
    async with consumer, asyncio.timeout(60):
        async for message in consumer:
            if not (message.key or b"").startswith(f"Counter/{prefix}-".encode()):
                continue
            answered.add(message.key)
            print(
                message.key.decode(),
                dict(message.headers)["outcome"].decode(),
                message.value.decode(),
                flush=True,
            )
            if len(answered) == count:
                break


asyncio.run(main())
