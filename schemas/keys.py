"""Object keys: `Namespace/name`, in one canonical form, and the partition they live in.

Laws
- Two different accepted keys are two different objects; nothing is folded, trimmed or decoded here.
- What is not canonical is refused, never repaired: a name is printable Unicode in NFC, without `/`,
  1 to 512 bytes of UTF-8, and neither `.` nor `..`. It is never used as a file name.
- The partition is Kafka's Java default, so that any Java-compatible producer reaches the same place.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import count
from struct import Struct

from perdure.schemas.cache import PureCache
from perdure.schemas.errors import BadKey

MAX_NAME_BYTES = 512
MAX_NAMESPACE_CHARS = 64
_NAMESPACE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}/[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,511}", re.ASCII)
_KEYS_REMEMBERED = 65_536  # a bound on memory (about 20 MiB), not on the number of objects


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "…")


def object_key(namespace: str, name: str) -> str:
    """The canonical key `namespace/name`.

    Raises `BadKey` with the reason and the rule, for a namespace or name that is not canonical.
    """
    key = f"{namespace}/{name}"
    if _PLAIN.fullmatch(key):  # nearly all: it need not be checked further
        return key
    if not _NAMESPACE.fullmatch(namespace):
        raise BadKey(
            f"{_shown(namespace)} is not a namespace: letters, digits, '_' and '-', beginning with a letter, "
            f"at most {MAX_NAMESPACE_CHARS}"
        )
    if not name:
        raise BadKey("the name of an object is empty: it needs 1 to 512 bytes")
    if len(name) > MAX_NAME_BYTES or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise BadKey(f"the name {_shown(name)} is longer than {MAX_NAME_BYTES} bytes of UTF-8")
    if not name.isprintable():
        raise BadKey(f"the name {_shown(name)} holds control, invisible or unassigned characters")
    if "/" in name:
        raise BadKey(f"the name {_shown(name)} holds '/', which separates namespace, name and path")
    if name in (".", ".."):
        raise BadKey(f"{_shown(name)} cannot name an object")
    if not unicodedata.is_normalized("NFC", name):
        raise BadKey(f"the name {_shown(name)} is not in Unicode's NFC form: normalize it before you send it")
    return key


@lru_cache(_KEYS_REMEMBERED)
def parse_key(raw: bytes) -> str:
    """The canonical key in the bytes of a record's key. Raises `BadKey`."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadKey(f"the record's key {raw[:60]!r} is not UTF-8") from error
    namespace, slash, name = text.partition("/")
    if not slash:
        raise BadKey(f"the record's key {_shown(text)} is not an object: it needs the form Namespace/name")
    return object_key(namespace, name)


def namespace_of(key: str) -> str:
    """The namespace of a canonical key."""
    return key.partition("/")[0]


def name_of(key: str) -> str:
    """The name of a canonical key."""
    return key.partition("/")[2]


def partition_named(text: str, partitions: int) -> int | None:
    """The partition that a text is the number of, decimal; None if it is of none that there is."""
    known = text.isascii() and text.isdigit() and len(text) < 6 and int(text) < partitions
    return int(text) if known else None


def partition_of(key: str, partitions: int) -> int:
    """The partition of a canonical key: `(murmur2(utf8) & 0x7fffffff) % partitions`."""
    return key_hashes[key] % partitions


def key_in(partition: int, namespace: str, partitions: int) -> str:
    """The key of some object of the namespace that lives in the partition: each record needs a key."""
    names = (f"any-{n}" for n in count())
    keys = (object_key(namespace, name) for name in names)
    return next(key for key in keys if partition_of(key, partitions) == partition)


def place_of(name: str, partitions: int) -> int:
    """The partition of `replies` in which a gateway, or the calls of a node, get their answers.

    Not 0 if there are others: there every node reads the heartbeats of all nodes.
    """
    return 1 + partition_of(name, partitions - 1) if partitions > 1 else 0


@lru_cache(256)
def _words(count: int) -> Struct:
    return Struct(f"<{count}I")


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2, unsigned (org.apache.kafka.common.utils.Utils.murmur2)."""
    multiplier, mask = 0x5BD1E995, 0xFFFFFFFF
    digest = 0x9747B28C ^ len(data)
    end = len(data) & ~3
    for word in _words(end // 4).unpack_from(data):
        word = word * multiplier & mask
        digest = (digest * multiplier ^ (word ^ word >> 24) * multiplier) & mask
    if tail := data[end:]:
        digest = (digest ^ int.from_bytes(tail, "little")) * multiplier & mask
    digest = (digest ^ digest >> 13) * multiplier & mask
    return digest ^ digest >> 15


# by canonical key: `murmur2(utf8) & 0x7fffffff`
key_hashes: PureCache[str, int] = PureCache(lambda key: murmur2(key.encode()) & 0x7FFFFFFF, _KEYS_REMEMBERED)
