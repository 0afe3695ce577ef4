#!/usr/bin/env bash
# Creates the four topics of an app, with the settings that perdure needs.
# perdure creates them itself at its first start; this is for clusters on
# which it may not, or where you want to choose the number of copies.
#
#   make-topics.sh APP PARTITIONS COPIES BROKERS
#   e.g. ./make-topics.sh shop 8 3 kafka1:9092,kafka2:9092
#
# It needs kafka-topics.sh and kafka-configs.sh of Kafka on the PATH.
# KAFKA_COMMAND_CONFIG names a file with credentials.
set -euo pipefail
app=$1 partitions=$2 copies=$3 brokers=$4
access=(--bootstrap-server "$brokers")
if [ -n "${KAFKA_COMMAND_CONFIG:-}" ]; then access+=(--command-config "$KAFKA_COMMAND_CONFIG"); fi

settings=(
  # Only perdure removes records, once they are not needed. Any other value
  # loses commands or state.
  cleanup.policy=delete
  retention.ms=-1
  retention.bytes=-1
  # Time is the broker's, not what a producer writes: alarms and expiry follow
  # it.
  message.timestamp.type=LogAppendTime
  # An entry of the journal may have 9 MiB. The default, 1 MiB, would stop a
  # partition at the first large one.
  max.message.bytes=10485760
  # A broker that lacks acknowledged records never becomes a leader. Otherwise
  # acknowledged writes are lost.
  unclean.leader.election.enable=false
  # The broker unpacks what producers compress.
  compression.type=uncompressed
)
# perdure produces with acks=all: a write is acknowledged when this many
# copies have it. 2 of 3: one broker may be down.
if [ "$copies" -ge 3 ]; then settings+=(min.insync.replicas=2); else settings+=(min.insync.replicas=1); fi

for topic in commands journal replies dead; do
  kafka-topics.sh "${access[@]}" --create --topic "$app.$topic" \
    --partitions "$partitions" --replication-factor "$copies" "${settings[@]/#/--config=}"
done
# What is in force, the cluster's defaults included. Compare, above all,
# min.insync.replicas and the replication factor.
for topic in commands journal replies dead; do
  kafka-configs.sh "${access[@]}" --describe --all --entity-type topics --entity-name "$app.$topic" |
    grep -E '^ *(cleanup.policy|retention.ms|min.insync.replicas|message.timestamp.type|max.message.bytes)='
done
