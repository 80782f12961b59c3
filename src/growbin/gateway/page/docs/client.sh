#!/bin/sh
# A photo in, the advice out: a whole growbin client of curl and sed.
#
#   sh client.sh http://127.0.0.1:8080 photo.jpg
set -eu
server=$1 photo=$2 events=$(mktemp) told=$(mktemp)
trap 'rm -f "$events" "$told"' EXIT

# Every call may be repeated: curl does it on 429 and 5xx, and waits for as long as Retry-After says.
call() { curl -sS --fail-with-body --retry 20 --retry-connrefused --max-time 60 "$@"; }
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }
begin_session() { token=$(call -X POST "$server/api/v1/sessions" | field token); }

# 1 a session: its token opens its jobs, also later
token=${GROWBIN_TOKEN:-}
[ -n "$token" ] || begin_session

# 2 a ticket. The same key gives the same job. 401: the session has ended, and so have its jobs
key=$(date +%s)-$$
wishes="{\"content_type\":\"image/jpeg\",\"content_length\":$(wc -c <"$photo"),\"locale\":\"en\"}"
ask() {
  call -X POST "$server/api/v1/waste/analyze" -H "Authorization: Bearer $token" -H "Idempotency-Key: $key" \
    -H "Content-Type: application/json" -d "$wishes"
}
ticket=$(ask) || case $ticket in
  *'"status":401'*) begin_session; ticket=$(ask) ;;
  *) echo "$ticket" >&2; exit 1 ;;
esac
job=$(echo "$ticket" | field job_id)

# 3 the photo, straight to the storage, with the ticket's headers. 412: it is there already
status=$(curl -sS --retry 5 -o "$told" -w '%{http_code}' -T "$photo" -H "Content-Type: image/jpeg" \
  -H "If-None-Match: *" "$(echo "$ticket" | field upload_url)")
case $status in 2?? | 412) ;; *) cat "$told" >&2; exit 1 ;; esac

# 4 say that it is there. 202: the job is safe
call -X POST "$server/upload-complete/$job" -H "Authorization: Bearer $token" >&2

# 5 the events, each once and in order. What is cut goes on after the last id; after `reset` what came
# before no longer counts. A stream is never silent for longer than its heartbeat of 15 s
last=
until grep -qE '^event: (done|failed|cancelled|expired)' "$events"; do
  curl -sSN --retry 20 --speed-limit 1 --speed-time 45 "$server/api/v1/waste/jobs/$job/events" \
    -H "Authorization: Bearer $token" ${last:+-H "Last-Event-ID: $last"} | tr -d '\r' >"$told" || true
  cat "$told" >>"$events"
  grep '^data:' "$told" >&2 || true
  last=$(sed -n 's/^id: //p' "$events" | tail -n 1)
  grep -qE '^event: (done|failed|cancelled|expired)' "$events" || sleep 2
done

# 6 the result stands in the last event
sed -n 's/^data: //p' "$events" | tail -n 1
