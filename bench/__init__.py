"""The benchmark: perdure, its peers and the limit loop doing the same work.

Laws
- The same work: a durable counter over HTTP. A POST adds one and is answered when the change is fsynced
  (on Kafka: acknowledged by the brokers); a GET reads.
- One run is one fresh server on one fresh data directory, one warm-up, one load, one check that no
  acknowledged write is missing and none was invented. A run whose check fails is not a result.
- Sides take turns within a round and rounds rotate their order. Ratios compare runs of one round only.
- Every run is kept in a JSON lines file the moment it ends; a rerun continues where it stopped.

`python -m bench` measures everything and writes `bench/results.md` and `bench/results.json`.
"""
