"""kafka-python, as it is when nothing is configured: BOOTSTRAP APP PREFIX COUNT."""

import sys

from kafka import KafkaConsumer, KafkaProducer

bootstrap, app, prefix, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
producer = KafkaProducer(bootstrap_servers=bootstrap)
for n in range(count):
    producer.send(
        f"{app}.commands", key=f"Counter/{prefix}-{n}".encode(), value=b'{"method":"increment","args":[1]}'
    )
producer.flush(30)
consumer = KafkaConsumer(
    f"{app}.replies",
    bootstrap_servers=bootstrap,
    group_id=f"{prefix}-readers",
    auto_offset_reset="earliest",
    consumer_timeout_ms=60_000,
)
answered = set()
for message in consumer:
    if not (message.key or b"").startswith(f"Counter/{prefix}-".encode()):
        continue
    answered.add(message.key)
    print(message.key.decode(), dict(message.headers)["outcome"].decode(), message.value.decode(), flush=True)
    if len(answered) == count:
        break
consumer.close()
