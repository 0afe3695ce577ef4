"""quixstreams, as it is when nothing is configured; it only produces: BOOTSTRAP APP PREFIX COUNT."""

import sys

from quixstreams import Application

bootstrap, app, prefix, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
with Application(broker_address=bootstrap, auto_create_topics=False).get_producer() as producer:
    for n in range(count):
        producer.produce(
            topic=f"{app}.commands", key=f"Counter/{prefix}-{n}", value=b'{"method":"increment","args":[1]}'
        )
    producer.flush(30)
