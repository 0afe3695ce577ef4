"""`python -m bench.peers.limit_kafka PORT BOOTSTRAP`: the limit loop on Kafka."""

from __future__ import annotations

import sys

from bench.peers.limit.__main__ import serve
from bench.peers.limit_kafka.app import LimitLoop

if __name__ == "__main__":
    serve(LimitLoop(sys.argv[2]), int(sys.argv[1]))
