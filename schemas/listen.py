"""Addresses on which the embedded log answers Kafka clients, as configurations write them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

AUTO, OFF = "auto", "off"
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


def _address(text: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if text and (match is None or int(match[1]) > 65535):
        raise ValueError(f'"{text}" is not an address; use "HOST:PORT", such as "127.0.0.1:9092"')
    return text


def _listen(text: str) -> str:
    if text in (AUTO, OFF):
        return text
    if not text:
        raise ValueError('an empty text is not an address; use "HOST:PORT", "auto" or "off"')
    return _address(text)


Address = Annotated[str, AfterValidator(_address)]  # or empty
Listen = Annotated[str, AfterValidator(_listen)]
