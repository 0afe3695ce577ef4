#!/usr/bin/env bash
# rocksdict: ReadOptions.set_iterate_lower_bound sets the upper bound of the iteration.
#
# With a lower bound of `c` over a..e one expects c, d, e; the iterator gives a, b. Whichever of the two bounds is set last
# wins, so a range with both is wrong as well, without an error. Start with `seek(key)` and end by comparing keys instead.
#
# Seen: rocksdict 0.3.29 on CPython 3.11, Linux. Exits with 1 if that has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "rocksdict==0.3.29"

cat >"$dir/bounds.py" <<'PY'
import sys
import tempfile
from importlib.metadata import version

from rocksdict import Options, Rdict, ReadOptions

with tempfile.TemporaryDirectory() as place:
    database = Rdict(place, Options(raw_mode=True))
    for key in (b"a", b"b", b"c", b"d", b"e"):
        database[key] = b"value"

    def keys(*bounds):
        options = ReadOptions()
        for name, key in bounds:
            getattr(options, f"set_iterate_{name}_bound")(key)
        rows, found = database.iter(options), ""
        rows.seek_to_first()
        while rows.valid():
            found += rows.key().decode()
            rows.next()
        return found

    seen = {
        "lower c": keys(("lower", b"c")),
        "upper c": keys(("upper", b"c")),
        "lower b, then upper d": keys(("lower", b"b"), ("upper", b"d")),
        "upper d, then lower b": keys(("upper", b"d"), ("lower", b"b")),
    }
    database.close()
print(f"python {sys.version.split()[0]}, rocksdict {version('rocksdict')}, keys a to e")
for bounds, found in seen.items():
    print(f"{bounds}: {found}")
sys.exit(list(seen.values()) != ["ab", "ab", "abc", "a"])
PY
"$dir/venv/bin/python" "$dir/bounds.py"
