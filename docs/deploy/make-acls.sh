#!/usr/bin/env bash
# Grants, on a cluster with an authorizer, what perdure and its clients need.
#
#   make-acls.sh APP NODE_USER CLIENT_USER BROKERS
#   e.g. ./make-acls.sh shop perdure website kafka1:9092,kafka2:9092
#
# It needs kafka-acls.sh of Kafka on the PATH. KAFKA_COMMAND_CONFIG names a
# file with the credentials of an administrator.
set -euo pipefail
app=$1 node=$2 client=$3 brokers=$4
access=(--bootstrap-server "$brokers")
if [ -n "${KAFKA_COMMAND_CONFIG:-}" ]; then access+=(--command-config "$KAFKA_COMMAND_CONFIG"); fi
acls() { kafka-acls.sh "${access[@]}" --add "$@"; }

# The nodes: all four topics and no others. Create lets the first start create
# the topics, Delete lets perdure remove records that are no longer needed
# (DeleteRecords), and DescribeConfigs lets a start check the topics' settings.
acls --allow-principal "User:$node" --resource-pattern-type prefixed --topic "$app." \
  --operation Read --operation Write --operation Create --operation Delete \
  --operation Describe --operation DescribeConfigs
# For the sizes that /metrics shows; it also lets the nodes see the brokers.
acls --allow-principal "User:$node" --cluster --operation Describe

# Clients that call objects through Kafka: they write commands and read
# replies, with consumer groups of their own. A client that may write commands
# may do anything that an object allows. Only the nodes write the journal.
acls --allow-principal "User:$client" --topic "$app.commands" --operation Write --operation Describe
acls --allow-principal "User:$client" --topic "$app.replies" --operation Read --operation Describe
acls --allow-principal "User:$client" --resource-pattern-type prefixed --group "$client" --operation Read
