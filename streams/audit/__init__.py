"""Audit: reads an app's log as the record of everything that happened.

`AuditLog` (reader.py) reads commands, journal, replies and dead letters as `AuditRecord`s (records.py): on
the log of a running node, or on one that is only read, offline or beside its node. A `Query` (query.py)
selects records, by fields or by an expression (expression.py). The module `perdure.audit` is its face.

Laws
- Reading changes nothing: no lock, no claim, no commit of offsets.
- Secrets are never in what is read as JSON or by a property of a record: they are masked
  (schemas/masking.py). [test_audit.py]
"""
