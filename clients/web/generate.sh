#!/usr/bin/env bash
# Starts a run with curl, stops it from a second request, and shows what was kept.
#   MIDSTREAM_WEB=http://127.0.0.1:8080 MODEL=local/smollm2 ./generate.sh "Tell me a story."
set -euo pipefail
base=${MIDSTREAM_WEB:-http://127.0.0.1:8080}
model=${MODEL:-local/smollm2}
prompt=${1:-Tell me a story about a lighthouse.}
run_id=curl-$(date +%s)-$$

request=$(printf '{"run_id": "%s", "model": "%s", "messages": [{"role": "ROLE_USER", "parts": [{"text": {"text": "%s"}}]}]}' \
    "$run_id" "$model" "$prompt")
curl --silent --no-buffer --fail-with-body --json "$request" "$base/v1/runs:generate" &
stream=$!

sleep "${STOP_AFTER:-2}"
answer=$(curl --silent --fail-with-body --json '{"reason": "enough"}' "$base/v1/runs/$run_id:cancel")
wait "$stream"
printf -- '--- stopped: the reply carries the partial\n%s\n' "$answer"
printf -- '--- kept\n%s\n' "$(curl --silent --fail-with-body "$base/v1/runs/$run_id")"
