"""Errors of a measurement. perdure itself raises none of them."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement cannot be made or cannot be trusted; the message says what to do."""
