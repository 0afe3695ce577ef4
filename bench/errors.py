"""What can go wrong with a measurement. Nothing here is raised by perdure itself."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement cannot be made or cannot be trusted; the message names the remedy."""
