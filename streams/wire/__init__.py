"""The Kafka protocol in front of the embedded log: any Kafka client produces commands and reads replies.

`listener.py` accepts connections, `connection.py` cuts frames and keeps answers in order, and each file of
`requests/` answers one kind of request. A record that a client produces to `commands` is appended as on a
broker, and its owner takes it from there.

Laws
- Clients write to `commands` and to topics of their own; replies, dead letters and the journal are read-only.
- What was answered is durable; a batch of an idempotent producer that is sent again is appended once, also
  after a crash.
- A frame that is malformed, cut off or too large closes its connection, and no other.
- What one connection holds in memory is bounded.
"""
