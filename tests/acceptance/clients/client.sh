#!/usr/bin/env bash
# What curl does by itself and with --http2: an offer of h2c with each request.
set -euo pipefail
base=$1 add='{"args":[5]}' large=$2

told() { # method, then curl's arguments: one line, method, status and body
  local method=$1 body
  body=$(curl --silent --show-error --max-time 60 --request "$method" --write-out '\n%{http_code}' "${@:2}")
  echo "$method ${body##*$'\n'} ${body%$'\n'*}"
}

told POST --http2 --data "$add" "$base/rpc/Counter/curl/add"
told POST --http2 --header 'Transfer-Encoding: chunked' --data "$add" "$base/rpc/Counter/curl/add"
told POST --http2 --data-binary "@$large" "$base/objects/Counter/curl/size"
told POST --http2 --header 'Transfer-Encoding: chunked' --data-binary "@$large" "$base/objects/Counter/curl/size"
told PUT --http2 "$base/objects/Counter/curl/size"
told POST --http2 --data '{}' "$base/admin/objects/Counter/curl/pause"
told POST --http2 --header 'Transfer-Encoding: chunked' --data '{}' "$base/admin/objects/Counter/curl/resume"
told GET --http2 "$base/livez"
told POST --data "$add" "$base/rpc/Counter/curl/add"
told POST --header 'Expect: 100-continue' --data "$add" "$base/rpc/Counter/curl/add"
told POST --http1.0 --data "$add" "$base/rpc/Counter/curl/add"
told POST --header 'Connection: close' --data "$add" "$base/rpc/Counter/curl/add"
