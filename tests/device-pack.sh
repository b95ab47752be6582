#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# device-pack.sh BUILD FOLDER [PROGRAM...] - puts the test programs that use a card (tests/unit/test_device_*, or
# those named), liblectern_cuda.so and the shared libraries that they need into FOLDER, with a script `run` that
# runs them on another x86-64 machine with a card, the CUDA runtime libraries and the same or a newer C library.
#   FOLDER/run                the tests; last line: "N passed, N failed, N skipped"
#   FOLDER/run memcheck ...   the same under compute-sanitizer's tool (memcheck, racecheck, initcheck, synccheck)
# run exits with 1 when anything failed, or when nothing could use the card.
set -eu
[ $# -ge 2 ] || { echo "usage: device-pack.sh BUILD FOLDER [PROGRAM...]" >&2; exit 2; }
build=$1 folder=$2
shift 2
programs=("$@")
[ $# -gt 0 ] || programs=("$build"/release/tests/test_device_*)
mkdir -p "$folder/lib"
for p in "${programs[@]}"; do
    strip -o "$folder/${p##*/}" "$p"
    # What belongs to the C library must be that of the machine; its own loader comes with it.
    ldd "$p" | awk '/=> \//{print $3}' | while IFS= read -r library; do
        case ${library##*/} in libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | ld-linux*) continue ;; esac
        cp -Lu "$library" "$folder/lib/"
    done
done
cp "$build/liblectern_cuda.so" "$folder/"
cat >"$folder/run" <<'S'
#!/usr/bin/env bash
cd "$(dirname "$0")" || exit 1
export LD_LIBRARY_PATH=$PWD/lib:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
tool=${1-} passed=0 failed=0 skipped=0
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
# Allocations that have to fail are part of the tests.
api=
[ "$tool" = memcheck ] && api='--report-api-errors no'
for program in ./test_*; do
    if [ -n "$tool" ]; then
        "$sanitizer" --tool "$tool" $api --error-exitcode 99 --print-limit 20 "$program" >log.txt 2>&1
    else
        "$program" >log.txt 2>&1
    fi
    status=$?
    read -r p f s <<<"$(awk '
        /^\[  PASSED  \] [0-9]+ test/ { p += $4 }
        /^\[  (SKIPPED|FAILED ) \] .*[0-9]+ test\(s\)/ {
            line = $0; sub(/ test\(s\).*/, "", line); sub(/.* /, "", line)
            if ($2 == "SKIPPED") s += line; else f += line
        }
        END { printf "%d %d %d", p, f, s }' log.txt)"
    [ $status -ne 0 ] && [ "$f" -eq 0 ] && f=1
    printf '%s%s: %d passed, %d failed, %d skipped\n' "$program" "${tool:+ under $tool}" "$p" "$f" "$s"
    if [ "$f" -gt 0 ]; then
        # first what failed, then the end, which names the tests
        grep -v '^\[ *\(RUN\|OK\) *\]\|^\[       OK' log.txt | head -60
        tail -25 log.txt
    fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ] && [ $passed -gt $skipped ]
S
chmod 755 "$folder/run"
du -sh "$folder" | cut -f1
