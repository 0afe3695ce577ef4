#!/usr/bin/env bash
# @platformatic/kafka: keys go to the same partitions as from Java's client only if their number is a power of two.
#
# Both hash a key by murmur2; Java clears the sign bit before the remainder, the default partitioner here keeps it as the
# highest bit of an unsigned number. With 8 or 16 partitions all keys agree, with 3, 6, 10 or 12 about half of them, so a
# check with 8 shows nothing. Its `compatibilityPartitioner` agrees always. kafkajs stands in for Java's rule.
#
# Seen: @platformatic/kafka 2.12.1, kafkajs 2.2.4, Node 20. Exits with 1 if that has changed.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund @platformatic/kafka@2.12.1 kafkajs@2.2.4

cat >keys.js <<'JS'
const { compatibilityPartitioner, defaultPartitioner } = require("@platformatic/kafka");
const { Partitioners } = require("kafkajs");

const KEYS = 1000;
const java = Partitioners.DefaultPartitioner();
let asSeen = true;
console.log(`node ${process.version}; of ${KEYS} keys, so many go where Java's client puts them:`);
for (const partitions of [3, 6, 8, 10, 12, 16]) {
  const partitionMetadata = Array.from({ length: partitions }, (_, partitionId) => ({ partitionId, leader: 0 }));
  let byDefault = 0;
  let compatible = 0;
  for (let i = 0; i < KEYS; i++) {
    const key = Buffer.from(`Counter/k-${i}`);
    const home = java({ topic: "commands", partitionMetadata, message: { key } });
    byDefault += defaultPartitioner({ key }, key) % partitions === home;
    compatible += compatibilityPartitioner({ key }, key) % partitions === home;
  }
  console.log(`${partitions} partitions: default ${byDefault}, compatible ${compatible}`);
  const power = (partitions & (partitions - 1)) === 0;
  asSeen &&= compatible === KEYS && (power ? byDefault === KEYS : byDefault > KEYS / 3 && byDefault < (2 * KEYS) / 3);
}
process.exit(asSeen ? 0 : 1);
JS
node keys.js
