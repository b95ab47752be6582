#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# check-layers.sh must find each kind of breach, and nothing in a clean tree.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# expect STATUS FILE LINE: a tree whose FILE has the include LINE
expect() {
    rm -rf "$work/t"
    mkdir -p "$work/t"/{engine/base,engine/model,kernels/cpu,data/store,ingest/worker,ui,app,tests/unit}
    for h in engine/base/err.h engine/session.h engine/model/m_internal.h kernels/kernels.h kernels/cpu/tile.h \
        data/store/store.h ingest/ingest.h ui/ui.h app/cli.h app/a.c; do : > "$work/t/$h"; done
    mkdir -p "$work/t/$(dirname "$2")"
    printf '#include %s\n' "$3" > "$work/t/$2"
    "$root/tests/check-layers.sh" "$work/t" > "$work/out"
    if [ $? -eq "$1" ]; then passed=$((passed + 1)); else
        failed=$((failed + 1)); echo "expected $1: $2 with $3"; cat "$work/out"
    fi
}
expect 0 app/main.c '"engine/session.h"'
expect 0 engine/x.c '"kernels/kernels.h"'
expect 0 kernels/cpu/x.c '"kernels/cpu/tile.h"'
expect 0 data/store/x.c '<sqlite3.h>'
expect 0 ingest/worker/x.c '<poppler.h>'
expect 0 engine/model/x.c '"engine/model/m_internal.h"'
expect 1 engine/x.c '"engine/model/m_internal.h"'
expect 1 engine/base/x.c '"engine/session.h"'
expect 1 engine/x.c '"data/store/store.h"'
expect 1 engine/x.c '"kernels/cpu/tile.h"'
expect 1 kernels/x.c '"engine/session.h"'
expect 1 data/store/x.c '"engine/session.h"'
expect 1 ingest/x.c '"data/store/store.h"'
expect 1 ui/x.c '"engine/session.h"'
expect 1 ui/x.c '"app/cli.h"'
expect 1 app/x.c '<sqlite3.h>'
expect 1 app/x.c '<curses.h>'
expect 1 app/x.c '<poppler.h>'
expect 1 ingest/x.c '<poppler.h>'
expect 1 engine/x.c '<cuda_runtime.h>'
expect 1 app/x.c '"cli.h"'
expect 1 app/x.c '"app/missing.h"'
expect 1 tests/unit/x.c '"app/a.c"'
echo "[  PASSED  ] $passed test(s)."
[ $failed -eq 0 ] || { echo "[  FAILED  ] layers: $failed test(s), listed below:"; exit 1; }
