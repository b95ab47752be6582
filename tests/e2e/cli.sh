#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The command line as a script sees it: exact outputs, exit codes, what goes to which stream, closed and full
# outputs. The second half needs the default model and is skipped without it.
set -u
root=${LECTERN_ROOT:-$(cd "$(dirname "$0")/../.." && pwd)}
lectern=${LECTERN_BUILD:-$root/build}/lectern
[ -x "$lectern" ] || { echo "no $lectern: run make"; exit 1; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
export XDG_DATA_HOME=$work/data
unset NO_COLOR
cd "$work" || exit 1
passed=0 failed=0 skipped=0

ok() { passed=$((passed + 1)); }
bad() { failed=$((failed + 1)); echo "FAILED: $1"; [ -s out ] && sed 's/^/  out| /' out | head -n 8; [ -s err ] && sed 's/^/  err| /' err | head -n 8; }
# run STATUS ARGS...: leaves out and err; stdin is empty
run() {
    local want=$1 got
    shift
    "$lectern" "$@" >out 2>err </dev/null
    got=$?
    [ $got -eq "$want" ] && return 0
    bad "lectern $*: exit $got, expected $want"
    return 1
}
# refuse STATUS LINE ARGS...: nothing on stdout, exactly "lectern: LINE" on stderr
refuse() {
    local want=$1 line=$2
    shift 2
    run "$want" "$@" || return
    if [ ! -s out ] && [ "$(cat err)" = "lectern: $line" ]; then ok; else bad "lectern $*: expected ‘lectern: $line’"; fi
}
# check NAME COMMAND...: the command succeeds
check() { local name=$1; shift; if "$@"; then ok; else bad "$name"; fi; }
same() { [ "$(cat out)" = "$1" ]; }
json() { python3 -c 'import json,sys; v=json.load(open("out")); sys.exit(0 if eval(sys.argv[1]) else 1)' "$1"; }

# ---- texts ----
run 0 --version && check version same "lectern 0.1.0"
commands=(add ask sessions store models heads doctor tokenize detokenize logits eval bench help)
for c in "${commands[@]}"; do
    run 0 "$c" --help && { cp out help1; check "$c --help" test -s out -a ! -s err; }
    run 0 help "$c" && check "help $c equals $c --help" cmp -s out help1
    run 0 --help && check "--help names $c" grep -q "^  $c " out
done
run 0 sessions show --help && check "--help needs nothing else" grep -q 'lectern sessions show SESSION' out
run 0 help && cp out help1 && run 0 --help && check "help equals --help" cmp -s out help1
run 0 --man && cp out man && check "manual" grep -q '^\.SH COMMANDS' man
if command -v groff >/dev/null; then
    groff -man -Tutf8 -ww man >plain 2>err
    check "groff is content with the manual" test -s plain -a ! -s err
else
    skipped=$((skipped + 1))
fi
for shell in bash zsh fish; do
    run 0 --completion $shell && cp out complete.$shell
    if command -v $shell >/dev/null; then
        check "$shell reads its completion" $shell -n complete.$shell
    else
        skipped=$((skipped + 1))
    fi
done
# complete WORDS...: what bash offers for the last word
complete_words() {
    bash --norc -c '. ./complete.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _lectern; echo "${COMPREPLY[*]}"' \
        bash "$@" >out 2>err
}
complete_words lectern sess && check "bash completes commands" same sessions
complete_words lectern sessions ren && check "bash completes subcommands" same rename
complete_words lectern ask --top && check "bash completes options" same --top-p
complete_words lectern ask --kv r && check "bash completes values" same raw
complete_words lectern doctor --te && check "bash offers only what a command takes" same ""

# ---- not understood: 2 ----
refuse 2 'no command or file ‘adf’; did you mean ‘add’?' adf
refuse 2 'no command or file ‘qwertz’; lectern --help lists the commands' qwertz
refuse 2 'no file ‘./book.pdf’' ./book.pdf
refuse 2 'unknown option ‘--sed’; did you mean ‘--seed’?' ask --sed 4 q
refuse 2 'unknown option ‘-z’; lectern --help lists them' -z
refuse 2 '--temp wants a number from 0 to 100, not ‘hot’' ask --temp hot q
refuse 2 '--kv wants raw, kv8, k8v4, kv4, k4v2 or kv3, not ‘5’' ask --kv 5 q
refuse 2 '--context wants a number of tokens such as 100000, 128K or 2M, not ‘1.5M’' ask --context 1.5M q
refuse 2 '--temp means nothing to ‘lectern doctor’; see lectern help doctor' doctor --temp 1
refuse 2 'lectern sessions has no ‘lst’; did you mean ‘list’?' sessions lst
refuse 2 '--budget wants a size such as 50G, 1.5T, 800MiB or 0, not ‘many’' store gc --budget many
refuse 2 '--repair means nothing to ‘lectern store gc’; see lectern help store' store gc --repair
refuse 2 'lectern logits wants --tokens FILE and --out FILE' logits
refuse 2 'lectern add wants PATH... or --changed' add
refuse 2 'lectern eval wants a further word: there is perplexity, kv' eval
refuse 2 'no command ‘adn’; did you mean ‘add’?' help adn
refuse 2 '--completion wants bash, zsh or fish, not ‘tcsh’' --completion tcsh

# ---- outputs that are closed or full ----
"$lectern" --man 2>err | head -n 1 >out
check "a reader that leaves ends it quietly" test "${PIPESTATUS[0]}" -eq 0 -a ! -s err
if [ -w /dev/full ]; then
    "$lectern" --help >/dev/full 2>err
    status=$?
    : >out
    check "a full disk is an error" test $status -eq 1 -a -s err
fi

# ---- an empty home ----
mkdir empty
export XDG_CACHE_HOME=$work/empty
refuse 1 "the default model is not in $work/empty/lectern/models; fetch it (92 MB) with \`lectern models get\` or \`make model\`" \
    tokenize man
refuse 1 "no model ./nothing.gguf" tokenize --model ./nothing.gguf man
refuse 1 "only ‘SmolLM2-135M-Instruct’ can be fetched; put the GGUF file of another model into the models folder, or name its path with --model" \
    models get another
run 0 models && check "an empty models folder says so" grep -q 'there is no model in' err
run 0 models --quiet && check "--quiet says nothing" test ! -s out -a ! -s err
run 0 models --json && check "models --json" json 'v["models"] == []'
printf 'not a model' >broken.gguf
run 1 models show ./broken.gguf && check "a broken model costs one line" test "$(wc -l <err)" -eq 1
run 0 sessions && check "no sessions" test ! -s out
run 0 sessions --json && check "no sessions, as JSON" json 'v == []'
run 1 sessions show nobody && check "an unknown session is named" grep -q nobody err
run 1 doctor --json && check "doctor without a model has a problem" json 'v["problems"] >= 1 and v["model"]["file"] is None'
run 0 store --json && check "an empty store" json 'v["spans"] == 0 and v["sessions"] == [] and v["chains"] == [] and v["budget"] is None'
run 0 store verify && check "an empty store is sound" grep -q '^sound: 0 spans' out
refuse 1 'there is no session ‘nobody’; `lectern sessions` lists them' store strip nobody
mkdir -p settings/lectern
printf '# room\nbudget = 2.5G\n' >settings/lectern/config
XDG_CONFIG_HOME=$work/settings run 0 store --json && check "the settings file is read" json 'v["budget"] == 2500000000'
XDG_CONFIG_HOME=$work/settings run 0 store --budget 1K --json && check "the command line comes before it" json 'v["budget"] == 1000'
printf 'budget = 2.5G\nleave_free = 1G\n' >settings/lectern/config
XDG_CONFIG_HOME=$work/settings run 1 store && check "a wrong setting names its line" grep -q 'config, line 2: there is no setting ‘leave_free’; did you mean ‘leave-free’?' err
mode=$(stat -c %a "$XDG_DATA_HOME/lectern")
check "the data folder is the user's alone ($mode)" test "$mode" = 700
unset XDG_CACHE_HOME

# ---- with the default model ----
model=${LECTERN_TEST_MODEL:-$HOME/.cache/lectern/models/SmolLM2-135M-Instruct.Q4_1.gguf}
with_model() {
    begun=$(date +%s%N)
    run 0 --data-dir "$work/d" doctor --json || return
    took=$((($(date +%s%N) - begun) / 1000000))
    check "doctor is healthy" json 'v["problems"] == 0 and v["processor"]["kernels"] and v["libraries"]["sqlite3"] and v["sandbox"]["process"] is True and v["sandbox"]["seccomp"] in (True, False) and v["disk"]["free"] > 0'
    check "doctor tells of a card, or why none is used" json '"cuda" in v["gpu"] and (v["gpu"]["cuda"] is None or v["gpu"]["memory"] > 0)'
    check "doctor in a second ($took ms)" test $took -lt 1000
    run 0 models show --json && check "models show" json 'v["layers"] == 30 and v["kv_heads"] == 3 and v["template"] == "chatml" and v["parameters"] == 134515008'
    run 0 heads show --json && check "half of the heads" json 'v["retrieval_heads"] == 45 and sum(map(sum, v["retrieval"])) == 45 and len(v["gates"]) == 30'
    run 0 heads --sparsity 1 --json && check "no head at all" json 'v["retrieval_heads"] == 0'
    run 0 heads --adapter none --json && check "no adapter, no pattern" json 'v["pattern"] is None and v["retrieval_heads"] == 90'
    run 0 heads && check "the map" test "$(grep -c '^ *[0-9]*  [#.][#.][#.]' out)" -eq 30

    printf 'Hello, world' >hello
    run 0 tokenize hello && check "tokens" same $'19556\n28\n905'
    "$lectern" tokenize - <hello >out 2>err && check "tokens of the standard input" same $'19556\n28\n905'
    printf 'a<|im_start|>b' >forged
    run 0 tokenize forged && check "text forges no control token" test "$(grep -cx 1 out)" -eq 0
    run 0 tokenize --special forged && check "--special allows it" test "$(grep -cx 1 out)" -eq 1
    mixed=$root/data/sample/guide/06-commands.md
    run 0 tokenize "$mixed" && cp out ids && run 0 detokenize ids && check "there and back" cmp -s out "$mixed"
    printf 'caf\351' >latin
    run 0 tokenize latin && check "bytes that are no UTF-8 are told" grep -q 'not all UTF-8' err
    printf 'red \033[31m \302\233 \342\200\256 end' >escapes
    run 0 tokenize escapes && cp out ids_escapes && run 0 detokenize ids_escapes && check "a pipe gets every byte" cmp -s out escapes
    python3 -c 'import pty, sys; sys.exit(pty.spawn(sys.argv[1:]))' "$lectern" detokenize ids_escapes >out 2>err </dev/null
    check "a terminal gets no control character" python3 -c 'b = open("out", "rb").read(); bad = (b"\x1b", b"\xc2\x9b", b"\xe2\x80\xae"); exit(0 if b"end" in b and not any(c in b for c in bad) else 1)'
    printf '1\n2\nx\n' >wrong
    refuse 1 'wrong, line 3: not a token id' detokenize wrong
    printf '49152\n' >wrong
    refuse 1 'wrong, line 1: token 49152, but the model has only 49152' detokenize wrong

    plain=(--adapter none --sparsity 0 --kv raw)
    head -n 70 ids >ids70
    run 0 logits --tokens ids70 --out a.f32 "${plain[@]}" && check "logits: 70 rows" test "$(stat -c %s a.f32)" -eq $((70 * 49152 * 4))
    run 0 logits --tokens ids70 --out b.f32 --threads 1 "${plain[@]}" && check "the same bits with one thread" cmp -s a.f32 b.f32
    run 1 logits --tokens ids70 --out no/such/folder/x "${plain[@]}" && check "no folder, no file" test ! -e no
    for i in $(seq 8193); do echo 905; done >many
    refuse 1 '8193 tokens are 1 more than the 8192 that the model was trained for; read less, choose a model or an adapter with a longer context, or allow it with --long' \
        logits --tokens many --out c.f32 "${plain[@]}"
    check "nothing half-written is left" test -z "$(ls c.f32* 2>/dev/null)"
    for i in $(seq 8000); do echo 905; done >many
    "$lectern" logits --tokens many --out c.f32 "${plain[@]}" >out 2>err </dev/null &
    pid=$!
    sleep 1
    kill -INT $pid
    wait $pid
    check "Ctrl-C stops it with 1" test $? -eq 1 -a "$(wc -l <err)" -eq 1
    check "and leaves no file" test -z "$(ls c.f32* 2>/dev/null)"
    run 0 eval perplexity --ctx 64 --json --quiet "$mixed" "${plain[@]}" && check "perplexity" json '1 < v["perplexity"] < 200 and v["scored"] == v["windows"] * 31 and v["standard_error"] > 0'

    printf 'The ferry leaves at noon.\n' >note.txt
    run 0 add -s 'my note' note.txt && run 0 sessions --json &&
        check "add makes a session" json 'len(v) == 1 and v[0]["name"] == "my note" and v[0]["documents"] == 1 and v[0]["tokens"] > 5'
    run 0 add -s 'my note' note.txt --budget 1K && check "a budget never takes the open session" grep -q 'the budget is not met: what is left is open or pinned' err
    run 0 sessions rename 'my note' ferry && run 0 sessions fork ferry second && run 0 sessions show second --json &&
        check "a fork has the documents" json 'v["documents"][0]["path"].endswith("note.txt")'
    run 0 store stats second --json && check "stats of a fork" json 'v["kv_bytes"] > 0 and v["shared_bytes"] == v["kv_bytes"] and v["documents"][0]["tokens"] > 5'
    run 0 store && check "the stats name sessions and chains" test "$(grep -c -e '^  SESSION ' -e '^  CHAIN ' -e '^  second ' -e '^  ferry ' out)" -eq 4
    run 0 store pin second && run 0 sessions && check "pins are shown" grep -q '^second .*pinned$' out
    run 0 store gc --budget 0 --json && check "a pin holds" json 'v["bytes_after"] > 0 and v["kept_because_pinned"] == v["bytes_after"] and not v["met"]'
    run 0 store unpin second
    run 0 store export second second.lectern --json && check "export" json 'v["documents"] == 1 and v["spans"] > 0'
    run 0 store import second.lectern third --data-dir "$work/elsewhere" --json && check "import elsewhere" json 'v["new_spans"] == v["spans"] > 0'
    run 0 ask -s third --data-dir "$work/elsewhere" --json 'When does the ferry leave?' --max-tokens 8 && check "which reads nothing" json 'v["usage"]["prefilled"] == 0 and v["usage"]["restored"] > 5 and v["usage"]["proof"] == "verified"'
    run 0 store strip second && run 0 sessions show second --json && check "stripped: the text stays" json 'v["tokens"] == 0 and len(v["documents"]) == 1'
    run 0 store gc --budget 0 --json && check "gc without pins" json 'v["bytes_after"] == 0 and v["dropped_spans"] > 0 and v["met"]'
    run 0 store verify --json && check "and all is sound" json 'v["problems"] == 0 and v["lines"] == [] and v["spans"] == 0'
    run 0 ask -s ferry --json 'When does the ferry leave?' --max-tokens 8 --budget 1K && check "which is then read again" json 'v["usage"]["restored"] == 0 and v["usage"]["prefilled"] > 5' &&
        check "ask keeps the budget, too" grep -q 'the budget is not met: what is left is open or pinned' err
    refuse 2 'nobody can be asked here whether to delete ‘ferry’; give --yes' sessions delete ferry
    run 0 sessions delete ferry second --yes && run 0 sessions --json && check "deleted" json 'v == []'
}
if [ -f "$model" ]; then with_model; else skipped=$((skipped + 1)); echo "SKIPPED: no $model"; fi

echo "[  PASSED  ] $passed test(s)."
[ $skipped -eq 0 ] || echo "[  SKIPPED ] cli: $skipped test(s), listed below:"
[ $failed -eq 0 ] || echo "[  FAILED  ] cli: $failed test(s), listed below:"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
