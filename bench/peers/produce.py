# mypy: ignore-errors
# confluent-kafka lives in an environment of its own, where this file runs:
# `python produce.py BROKER TOPIC COUNT OBJECTS`.
"""Calls from one librdkafka producer with batches: COUNT records, as fast as it sends them.

Prints one JSON object: {"produced_s"}, the seconds until the last record was acknowledged.
"""

import json
import sys
import time

from confluent_kafka import Producer

CALL = b'{"method":"increment"}'


def main(broker, topic, count, objects):
    failures = []

    def delivered(error, message):
        if error is not None:
            failures.append(str(error))

    producer = Producer(
        {
            "bootstrap.servers": broker,
            "partitioner": "murmur2",  # perdure's homes: records in other partitions would be forwarded
            "linger.ms": 5,
            "queue.buffering.max.messages": count + 1,
        }
    )
    began_s = time.perf_counter()
    for number in range(count):
        producer.produce(topic, CALL, f"Counter/p{number % objects}", on_delivery=delivered)
        if not number % 1_000:
            producer.poll(0)
    left = producer.flush(120)
    assert not left, left
    assert not failures, failures[:3]
    print(json.dumps({"produced_s": time.perf_counter() - began_s}))


main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
