"""confluent-kafka (librdkafka), as it is when nothing is configured: BOOTSTRAP APP PREFIX COUNT."""

import sys
from time import monotonic

from confluent_kafka import Consumer, Producer

bootstrap, app, prefix, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
producer = Producer({"bootstrap.servers": bootstrap})
for n in range(count):
    producer.produce(
        f"{app}.commands", key=f"Counter/{prefix}-{n}", value=b'{"method":"increment","args":[1]}'
    )
assert producer.flush(30) == 0, "some records were not delivered"
consumer = Consumer(
    {"bootstrap.servers": bootstrap, "group.id": f"{prefix}-readers", "auto.offset.reset": "earliest"}
)
consumer.subscribe([f"{app}.replies"])
until, answered = monotonic() + 60, set()
while len(answered) < count and monotonic() < until:
    message = consumer.poll(1.0)
    if (
        message is None
        or message.error()
        or not (message.key() or b"").startswith(f"Counter/{prefix}-".encode())
    ):
        continue
    outcome = dict(message.headers() or ()).get("outcome", b"").decode()
    answered.add(message.key())
    print(message.key().decode(), outcome, message.value().decode(), flush=True)
consumer.close()
