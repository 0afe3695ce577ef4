"""The journal of a partition: what its owner writes, and the one rule by which every reader interprets it.

When a turn has ended, its entry goes to `writer.py`, which gathers entries into batches and reports the
outcome of each. `reader.py` decides which records count: those of the newest owner whose claim counts, in
order, linked by hashes. `bootstrap.py` writes and checks the header, which ties a journal to one app.

Laws
- One batch of a partition is outstanding. An entry is durable only if its batch was acknowledged at the
  expected offset.
- A record counts for all readers or for none; `reader.py` is pure, and no other module has a rule of its own.
- Neither Kafka nor RocksDB can be reached from here.
"""
