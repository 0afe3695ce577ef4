"""What a node reports about itself: log lines, metrics, spans and readiness.

`logs.py` sets up the log of the process, and `redact.py` keeps secrets out of it. `metrics.py` is `/metrics`
and `readiness.py` is `/readyz`. `tracing.py` decides whether there are OpenTelemetry spans, and `spans.py`
makes them. `replay_progress.py` shows how far a long start is.

Laws
- Everything is counted where it happens, as plain numbers. Tracing that is off costs next to nothing.
- No secret leaves in a log line. [test_logs.py]
"""
