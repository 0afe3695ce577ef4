"""Merkle trees and signed checkpoints: roots, proofs, and a few lines of another language that check them."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.schemas.errors import ConfigError, LogCorrupt
from perdure.streams.audit.checkpoints import (
    Checkpoint,
    JournalRoot,
    encode_checkpoint,
    key_in,
    make_key,
    parse_checkpoint,
    signed,
)
from perdure.streams.audit.merkle import Tree, leaf_hash, proves_consistency, proves_inclusion

# The eight leaves of the tests of Certificate Transparency, and the roots over the first n of them.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        *("", "00", "10", "2021", "3031", "40414243"),
        *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
    )
]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def tree_of(count: int) -> Tree:
    tree = Tree()
    for n in range(count):
        tree.append(leaf_hash(LEAVES[n] if n < len(LEAVES) else b"%d" % n))
    return tree


def test_roots_are_those_of_certificate_transparency() -> None:
    """The published test vectors; the root of nothing is the hash of nothing."""
    assert {count: tree_of(count).root().hex() for count in ROOTS} == ROOTS
    assert Tree().root() == sha256().digest()


@given(st.integers(1, 70), st.data())
def test_a_proof_proves_its_leaf_and_no_other(size: int, data: st.DataObject) -> None:
    """An inclusion proof holds for one leaf, one place, one size; anything changed in it is refused."""
    index = data.draw(st.integers(0, size - 1))
    tree = tree_of(70)
    proof, root = tree.inclusion(index, size), tree.root(size)
    hashed = leaf_hash(LEAVES[index] if index < len(LEAVES) else b"%d" % index)
    assert proves_inclusion(hashed, index, size, proof, root)
    assert not proves_inclusion(leaf_hash(b"other"), index, size, proof, root)
    assert not proves_inclusion(hashed, (index + 1) % (size + 1), size, proof, root)
    assert not proves_inclusion(hashed, index, size, [*proof, root], root)
    if proof:
        assert not proves_inclusion(hashed, index, size, proof[1:], root)


@given(st.integers(1, 70), st.data())
def test_a_tree_that_grew_is_consistent_with_what_it_was(size: int, data: st.DataObject) -> None:
    """And one that was changed below the earlier size is not."""
    first = data.draw(st.integers(1, size))
    tree, other = tree_of(70), Tree()
    changed = data.draw(st.integers(0, first - 1))
    for n in range(size):
        other.append(leaf_hash(b"changed" if n == changed else LEAVES[n] if n < len(LEAVES) else b"%d" % n))
    proof = tree.consistency(first, size)
    assert proves_consistency(first, tree.root(first), size, tree.root(size), proof)
    assert not proves_consistency(
        first, tree.root(first), size, other.root(size), other.consistency(first, size)
    )
    assert not proves_consistency(first, other.root(first), size, tree.root(size), proof)


def checkpoint_of(tree: Tree) -> Checkpoint:
    return Checkpoint("shop", "u-1", 1_700_000_000_000, (JournalRoot(0, tree.size, tree.root().hex()),))


def test_a_checkpoint_is_refused_if_anything_in_it_was_changed(tmp_path: Path) -> None:
    """Its signature is of every field; another key is not the trusted one; a key file is not replaced."""
    public = make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="cannot make"):
        make_key(tmp_path / "key")
    checkpoint = signed(checkpoint_of(tree_of(5)), key_in(tmp_path / "key"))
    data = encode_checkpoint(checkpoint)
    assert parse_checkpoint(data, public) == checkpoint
    for old, new in ((b'"size":5', b'"size":6'), (b"shop", b"shot"), (b"1700000000000", b"1700000000001")):
        with pytest.raises(LogCorrupt, match="signature"):
            parse_checkpoint(data.replace(old, new))
    with pytest.raises(LogCorrupt, match="not with"):
        parse_checkpoint(data, b64encode(bytes(32)).decode())
    with pytest.raises(LogCorrupt, match="not a checkpoint"):
        parse_checkpoint(b"{}")


NODE = """
const { createHash, createPublicKey, verify } = require("crypto");
const { checkpoint: c, proof: p, text } = JSON.parse(require("fs").readFileSync(0, "utf8"));
const sha = (...parts) => createHash("sha256").update(Buffer.concat(parts)).digest();
const der = Buffer.concat([Buffer.from("302a300506032b6570032100", "hex"), Buffer.from(c.key, "base64")]);
const key = createPublicKey({ key: der, format: "der", type: "spki" });
const signed = verify(null, Buffer.from(text), key, Buffer.from(c.signature, "base64"));
let hash = sha(Buffer.from([0]), Buffer.from(p.leaf, "base64"));
let [at, last] = [p.index, p.size - 1];
for (const each of p.hashes.map((h) => Buffer.from(h, "hex"))) {
  if (at % 2 || at === last) {
    hash = sha(Buffer.from([1]), each, hash);
    while (at && at % 2 === 0) [at, last] = [at >> 1, last >> 1];
  } else hash = sha(Buffer.from([1]), hash, each);
  [at, last] = [at >> 1, last >> 1];
}
const root = c.journals.find((j) => j.partition === p.partition).root;
console.log(JSON.stringify({ signed, proved: last === 0 && hash.toString("hex") === root }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_a_few_lines_of_another_language_check_a_proof(tmp_path: Path) -> None:
    """Node.js, without any package: signature and inclusion hold, and fail for another leaf."""
    make_key(tmp_path / "key")
    tree = tree_of(13)
    checkpoint = signed(checkpoint_of(tree), key_in(tmp_path / "key"))
    hashes = [each.hex() for each in tree.inclusion(6)]
    for leaf, proved in ((LEAVES[6], True), (b"other", False)):
        proof = {
            "partition": 0,
            "index": 6,
            "size": 13,
            "leaf": b64encode(leaf).decode(),
            "hashes": hashes,
        }
        given_ = {
            "checkpoint": json.loads(encode_checkpoint(checkpoint)),
            "proof": proof,
            "text": checkpoint.signed_text(),
        }
        done = subprocess.run(
            ["node", "-e", NODE], check=False, input=json.dumps(given_), capture_output=True, text=True
        )
        assert json.loads(done.stdout) == {"signed": True, "proved": proved}, done.stderr
