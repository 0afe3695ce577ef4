#!/usr/bin/env bash
# rocksdict: a Snapshot answers `snapshot[key]` as of its moment, but iterates over the rows of now.
#
# After a write, `items()`, `keys()`, `values()` and `iter()` of an older snapshot show the new and changed rows and leave
# out the deleted ones, while `snapshot[key]` still has the old ones. So a scan of a snapshot is not consistent, neither in
# itself nor with what the same snapshot answers for a key. For a consistent scan read a checkpoint, or a read-only or
# secondary opening of the database.
#
# Seen: rocksdict 0.3.29 on CPython 3.11, Linux. Exits with 1 if that has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "rocksdict==0.3.29"

cat >"$dir/snapshot.py" <<'PY'
import sys
import tempfile
from importlib.metadata import version

from rocksdict import Options, Rdict

with tempfile.TemporaryDirectory() as place:
    database = Rdict(place, Options(raw_mode=True))
    for key in (b"a", b"b", b"c"):
        database[key] = b"old"
    snapshot = database.snapshot()
    database[b"b"] = database[b"d"] = b"new"
    del database[b"a"]

    by_key = {key: snapshot[key] for key in (b"a", b"b", b"c")}
    items = dict(snapshot.items())
    rows, iterated = snapshot.iter(), {}
    rows.seek_to_first()
    while rows.valid():
        iterated[rows.key()] = rows.value()
        rows.next()
    del rows, snapshot
    live = dict(database.items())
    database.close()
print(f"python {sys.version.split()[0]}, rocksdict {version('rocksdict')}")
print(f"snapshot[key]:    {by_key}")
print(f"snapshot.items(): {items}")
print(f"snapshot.iter():  {iterated}")
print(f"the database now: {live}")
sys.exit(not (set(by_key.values()) == {b"old"} and items == iterated == live))
PY
"$dir/venv/bin/python" "$dir/snapshot.py"
