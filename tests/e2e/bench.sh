#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `lectern bench store` on a small made-up session: the table, the JSON, and nothing left behind, also not after
# an interrupt or a kill; what `lectern bench cuda` does without a card. No speed is asserted.
set -u
root=${LECTERN_ROOT:-$(cd "$(dirname "$0")/../.." && pwd)}
lectern=${LECTERN_BUILD:-$root/build}/lectern
[ -x "$lectern" ] || { echo "no $lectern: run make"; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failed=0
bad() { echo "FAILED: $1"; failed=1; }
left() { find data -mindepth 1 -maxdepth 1 2>/dev/null | wc -l; }

"$lectern" bench store --count 2048 --kv kv8 --data-dir data --json --quiet >out 2>err || bad "bench store: $(cat err)"
[ -s err ] && bad "something on the standard error: $(cat err)"
python3 - <<'P' || bad "the JSON"
import json
v = json.load(open("out"))
assert v["format"] == "kv8" and v["block_bytes"] == 35422208 and v["checkpoint_interval"] == 9216
assert v["tokens"] == 2048 and v["bytes_left"] == 0 and len(v["stages"]) == 1
s = v["stages"][0]
assert s["tokens"] == 2048 and s["spans"] == 2 and s["bytes"] == 2 * 35422208
assert s["write"]["gb_per_second"] > 0 and s["read_checked"]["of_disk"] > 0
P
[ "$(left)" = 0 ] || bad "files are left in the data folder"
"$lectern" bench store --count 1024 --data-dir data --quiet >out 2>err || bad "the table: $(cat err)"
grep -q '^index rows a million tokens' out || bad "no table"

# Interrupted: exit 1, nothing on stdout, nothing left.
"$lectern" bench store --count 500000 --data-dir data --quiet >out 2>err &
pid=$!
for _ in $(seq 200); do [ "$(left)" != 0 ] && break; sleep 0.05; done
kill -INT $pid
wait $pid
status=$?
[ $status = 1 ] || bad "interrupted: exit $status"
[ -s out ] && bad "an interrupted run printed a result"
[ "$(left)" = 0 ] || bad "an interrupted run left files"

# Killed: what it left goes with the next run.
"$lectern" bench store --count 500000 --data-dir data --quiet >out 2>err &
pid=$!
for _ in $(seq 200); do [ "$(left)" != 0 ] && break; sleep 0.05; done
kill -KILL $pid
wait $pid 2>/dev/null
[ "$(left)" = 1 ] || bad "the killed run's folder is not there: nothing was tested"
"$lectern" bench store --count 1024 --data-dir data --quiet >out 2>err || bad "after a kill: $(cat err)"
[ "$(left)" = 0 ] || bad "a killed run's files stayed"

"$lectern" bench store --kv nothing >out 2>err
[ $? = 2 ] || bad "an unknown format is not refused"

# `lectern bench cuda` without measuring: its rows by name, and what it does not take.
"$lectern" bench cuda --rows list >out 2>err || bad "bench cuda --rows list: $(cat err)"
grep -q '^decode\.w8\.kv4\.half ' out || bad "the rows are not listed"
"$lectern" bench cuda --rows list --shape llama-2-7b >out 2>err || bad "another shape: $(cat err)"
grep -q '^decode\.w8\.kv4\.quarter ' out || bad "the other shape's heads are not named"
for wrong in '--rows nonsense' '--shape nonsense' '--kv kv8' '--count 5'; do
    # shellcheck disable=SC2086
    "$lectern" bench cuda $wrong >out 2>err
    [ $? = 2 ] || bad "bench cuda $wrong is not refused"
done
exit $failed
