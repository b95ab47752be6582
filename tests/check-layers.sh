#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# check-layers.sh [ROOT] - holds every #include of the tree against the dependency law of the folders.
#
# The table below is the law. Arrows go down only; the middle folders never see one another and meet in app/.
# (tests/golden/tools are programs against other projects and stay outside.)
# Also: includes of ours are root-relative and exist, no .c is included, a header named *_internal.h stays in
# its own folder (and its unit test), and each foreign library is spoken to by one folder alone.
set -eu
cd "${1:-$(dirname "$0")/..}"

find engine kernels data ingest ui app tests -type f \
    ! -path 'tests/golden/*' \( -name '*.c' -o -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null | LC_ALL=C sort |
    awk '
function folder(path) {
    if (path ~ /^engine\/base\//) return "base"
    if (path ~ /^ingest\/worker\//) return "worker"
    if (path ~ /^data\/transfer\//) return "transfer"
    sub(/\/.*/, "", path)
    return path
}
function complain(text) { printf "%s:%d: %s\n", file, line_number, text; wrong++ }

function ours(path,    to) {
    if (path ~ /\.(c|cc)$/) { complain("includes a source file: " path); return }
    if (path !~ /\//) { complain("not root-relative: \"" path "\""); return }
    if ((getline junk < path) < 0) { complain("no such file: \"" path "\""); return }
    close(path)
    to = folder(path)
    if (!((from, to) in may)) { complain(from " may not include " to ": \"" path "\""); return }
    if (to == "kernels" && from != "kernels" && from != "tests" && path !~ /^kernels\/[^\/]*$/)
        complain("only public headers of kernels: \"" path "\"")
    if (path ~ /_internal\.h$/ && from != "tests") {
        here = file; sub(/[^\/]*$/, "", here)
        there = path; sub(/[^\/]*$/, "", there)
        if (here != there && index(here, there) != 1) complain("internal header of another module: \"" path "\"")
    }
    if (from == "transfer" && to == "data" && path != "data/store/store.h")
        complain("transfer knows the store by its contract alone: \"" path "\"")
}
function foreign(path,    i) {
    for (i = 1; i <= n_foreign; i++)
        if (path ~ lib_pattern[i]) {
            if (file !~ lib_where[i]) complain("<" path "> belongs to " lib_name[i] " alone")
            return
        }
}
function allow(a, list,    n, i, part) {
    n = split(list, part, " ")
    for (i = 1; i <= n; i++) may[a, part[i]] = 1
}
function library(pattern, where, name) {
    n_foreign++; lib_pattern[n_foreign] = pattern; lib_where[n_foreign] = where; lib_name[n_foreign] = name
}
BEGIN {
    # folder          may include headers of
    allow("base",    "base")
    allow("kernels", "base kernels")
    allow("engine",  "base kernels engine")
    allow("data",    "base data")
    allow("transfer", "base data transfer")
    allow("ingest",  "base ingest")
    allow("worker",  "base ingest worker")
    allow("ui",      "base ui")
    allow("app",     "base kernels engine data transfer ingest ui app")
    allow("tests",   "base kernels engine data transfer ingest worker ui app tests")
    # library header                          files                      owner
    library("^sqlite3",                       "^(data/store|tests)/",    "data/store")
    library("^(n?curses|ncursesw/|form|panel)", "^(ui|tests)/",          "ui")
    library("^(poppler|git2|uchardet/|glib)", "^(ingest/worker|tests|data/sample)/", "ingest/worker")
    library("^archive(_entry)?\\.h",          "^(ingest/worker|data/transfer|tests|data/sample)/", "ingest/worker and data/transfer")
    library("^(cuda|cublas|mma|nccl)",        "^(kernels/cuda|tests)/",  "kernels/cuda")
    library("^sentencepiece",                 "^(engine/token|tests)/",  "engine/token")
    library("^pcre2",                         "^(engine/token|ui|tests)/", "engine/token and ui")
    library("^cmocka",                        "^tests/",                 "tests")
    library("^immintrin",                     "^(kernels|tests)/",       "kernels")
}
{
    file = $0; from = folder(file); line_number = 0; files++
    while ((getline text < file) > 0) {
        line_number++
        if (text !~ /^[ \t]*#[ \t]*include[ \t]*["<]/) continue
        quoted = text ~ /^[ \t]*#[ \t]*include[ \t]*"/
        path = text
        sub(/^[^"<]*["<]/, "", path); sub(/[">].*$/, "", path)
        includes++
        if (quoted) ours(path); else foreign(path)
    }
    close(file)
}
END {
    if (!files) { print "check-layers: no source files here"; exit 1 }
    if (wrong) { printf "check-layers: %d includes break the law\n", wrong; exit 1 }
    printf "check-layers: %d files, %d includes, none against the law\n", files, includes
}'
