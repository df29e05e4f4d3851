#!/bin/sh
# A host of a few lines of curl, by way of the HTTP door. Each line of its output is an answer.
#
#   apex-exec door &
#   export TOKEN=$(apex-exec door token new curl --user 11111111-2222-4333-8444-555555555555)
#   sh curl.sh http://127.0.0.1:9466
set -eu
door=${1:-http://127.0.0.1:9466}

ask() {  # PATH, then curl's arguments. The token goes by way of stdin: every user sees the arguments of a process.
  path=$1
  shift
  printf 'header = "Authorization: Bearer %s"\n' "$TOKEN" |
    curl --config - --silent --show-error --max-time 10 --header "Content-Type: application/json" "$@" "$door$path"
  echo
}

# What there is, one plugin, and one event for every plugin that has the hook:
ask /v1/plugins
ask /v1/invoke --data '{"plugin": "hello-world", "action": "onDashboardLoad", "payload": {"dashboardId": "main"}}'
ask /v1/dispatch --data '{"action": "onDashboardLoad", "payload": {"dashboardId": "main"}}'

# The same call twice with one key runs once:
key="curl-$$-$(date +%s)"
for _ in 1 2; do
  ask /v1/invoke --header "Idempotency-Key: $key" --header "Deadline-Ms: 3000" --data '{
    "plugin": "action-router", "action": "onActionExecute",
    "payload": {"action": "sum", "context": {"numbers": [1, 2]}}}'
done

# An error is a problem (RFC 9457) with the protocol's code:
ask /v1/invoke --data '{"plugin": "nobody", "action": "onDashboardLoad", "payload": {"dashboardId": "main"}}'
