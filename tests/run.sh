#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh [--list] [--filter WORD] BUILD... - runs the test programs of each build folder, and, for the first
# one, the scripts tests/e2e/*.sh and *.py. Last line: "N passed, N failed, N skipped".
#
# A cmocka program is counted by its own summary. A crash, a time-out, or a program that ran nothing counts as
# one failure. A script passes with 0 and is skipped with 77, unless it prints cmocka-like summaries itself.
# Programs see: LECTERN_ROOT, LECTERN_BUILD (absolute), LECTERN_TEST_MODEL (the default model's path), and a
# private XDG_DATA_HOME, XDG_CONFIG_HOME and TMPDIR, so that nothing of the user's is touched.
set -u
cd "$(dirname "$0")/.." || exit 1

list=0 filter=
builds=()
while [ $# -gt 0 ]; do
    case $1 in
    --list) list=1 ;;
    --filter) filter=${2-}; shift ;;
    -*) echo "usage: tests/run.sh [--list] [--filter WORD] BUILD..." >&2; exit 2 ;;
    *) builds+=("$1") ;;
    esac
    shift
done
[ ${#builds[@]} -gt 0 ] || builds=(build/release)
limit=${LECTERN_TEST_SECONDS:-1200}

export LECTERN_ROOT=$PWD
export LECTERN_TEST_MODEL=${LECTERN_TEST_MODEL:-${XDG_CACHE_HOME:-$HOME/.cache}/lectern/models/SmolLM2-135M-Instruct.Q4_1.gguf}
export ASAN_OPTIONS=${ASAN_OPTIONS:-abort_on_error=0:detect_stack_use_after_return=1:allocator_may_return_null=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
suppressions=$PWD/tests/support/lsan.supp
[ -f "$suppressions" ] && export LSAN_OPTIONS=${LSAN_OPTIONS:-suppressions=$suppressions:print_suppressions=0}

work=$(mktemp -d "${TMPDIR:-/tmp}/lectern-test.XXXXXX") || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
passed=0 failed=0 skipped=0 ran=0
broken=()

# one PROGRAM LABEL
one() {
    local program=$1 label=$2 log=$work/log status counts p f s begin=$SECONDS
    rm -rf "$work/home" && mkdir -p "$work/home/data" "$work/home/config" "$work/home/tmp"
    XDG_DATA_HOME=$work/home/data XDG_CONFIG_HOME=$work/home/config TMPDIR=$work/home/tmp \
        timeout -k 10 "$limit" "$program" >"$log" 2>&1 </dev/null
    status=$?
    ran=$((ran + 1))
    # cmocka 1.1: "[  PASSED  ] N test(s).", "[  SKIPPED ] GROUP: N test(s), listed below:", FAILED likewise.
    counts=$(awk '
        /^\[  PASSED  \] [0-9]+ test/ { p += $4 }
        /^\[  (SKIPPED|FAILED ) \] .*[0-9]+ test\(s\)/ {
            line = $0; sub(/ test\(s\).*/, "", line); sub(/.* /, "", line)
            if ($2 == "SKIPPED") s += line; else f += line
        }
        END { printf "%d %d %d", p, f, s }' "$log")
    read -r p f s <<<"$counts"
    local seen=$((p + f + s))
    case $program in
    *.sh | *.py)
        if [ $seen -eq 0 ]; then
            case $status in 0) p=1 ;; 77) s=1 ;; *) f=1 ;; esac
        fi ;;
    *)
        if [ $seen -eq 0 ] && [ $status -eq 77 ]; then s=1; elif [ $seen -eq 0 ]; then f=1; fi ;;
    esac
    # Every counted test passed and yet the program died: a sanitizer's report, a leak, a crash at the end.
    if [ $status -ne 0 ] && [ $status -ne 77 ] && [ "$f" -eq 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" -gt 0 ]; then
        broken+=("$label")
        sed 's/^/    | /' "$log" | tail -n 60
        echo "FAIL $label: $p passed, $f failed, $s skipped (exit $status, $((SECONDS - begin)) s)"
    else
        echo "ok   $label: $p passed, $s skipped ($((SECONDS - begin)) s)"
        [ "$s" -gt 0 ] && grep '^\[  SKIPPED \] ' "$log" | sed 's/^/     /'
    fi
}

first=1
for build in "${builds[@]}"; do
    export LECTERN_BUILD=$PWD/$build
    case $build in /*) LECTERN_BUILD=$build ;; esac
    # Sources decide what is run: a program left behind by a deleted test is not.
    programs=()
    for source in tests/unit/test_*.c; do
        [ -e "$source" ] || continue
        name=$(basename "$source" .c)
        case $build:$name in *asan:test_real_* | *asan:test_e2e_* | *tsan:test_real_* | *tsan:test_e2e_*) continue ;; esac
        programs+=("$build/tests/$name")
    done
    if [ $first = 1 ]; then
        for script in tests/e2e/*.sh tests/e2e/*.py; do
            [ -x "$script" ] && programs+=("$script")
        done
    fi
    first=0
    for program in ${programs[@]+"${programs[@]}"}; do
        label="$(basename "$build")/$(basename "$program")"
        case $label in *"$filter"*) ;; *) continue ;; esac
        if [ $list = 1 ]; then echo "$label"; continue; fi
        if [ ! -x "$program" ]; then
            echo "FAIL $label: not built"
            failed=$((failed + 1)) broken+=("$label")
            continue
        fi
        case $program in /*) ;; *) program=$PWD/$program ;; esac
        one "$program" "$label"
    done
done
[ $list = 1 ] && exit 0
[ ${#broken[@]} -eq 0 ] || printf 'failed: %s\n' "${broken[@]}"
[ $ran -gt 0 ] || echo "no test ran"
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
