"""The log as the record of everything that happened: `open_audit`, `AuditLog`, `Query`, `AuditRecord`.

    from perdure.audit import Query, load_config, open_audit

    async with open_audit(load_config("app.py")) as log:
        async for record in log.records(Query(object="Counter/alice")):
            print(record.time, record.method, record.args, record.values)

How to use it stands in docs/audit.md.
"""

from perdure.api.loading import load_config
from perdure.streams.audit.query import Query, parse_query, parse_time
from perdure.streams.audit.reader import AuditLog, Span, open_audit
from perdure.streams.audit.records import AuditRecord
from perdure.streams.log.base import Topic

__all__ = [
    "AuditLog",
    "AuditRecord",
    "Query",
    "Span",
    "Topic",
    "load_config",
    "open_audit",
    "parse_query",
    "parse_time",
]
