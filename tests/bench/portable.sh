#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# portable.sh BUILD/release/lectern FOLDER - puts the stripped program, the shared libraries that it needs beyond
# the C library, and a script `run` that starts it with them into FOLDER, so that it can be measured on another
# x86-64 machine with the same or a newer C library: FOLDER/run bench store --data-dir DIR. PROGRAM may also be
# bench/bench_card, which is `lectern bench cuda` with few libraries; BUILD/liblectern_cuda.so goes along when it
# is there: FOLDER/run --rows decode --save DIR
set -eu
[ $# -eq 2 ] || { echo "usage: portable.sh PROGRAM FOLDER" >&2; exit 2; }
program=$1 folder=$2
mkdir -p "$folder/lib"
strip -o "$folder/lectern" "$program"
for cuda in "${program%/*}"/{..,../..}/liblectern_cuda.so; do
    [ ! -f "$cuda" ] || strip -o "$folder/liblectern_cuda.so" "$cuda"
done
# What belongs to the C library must be that of the machine; its own loader comes with it.
ldd "$program" | awk '/=> \//{print $3}' | while IFS= read -r library; do
    case ${library##*/} in libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | ld-linux*) continue ;; esac
    cp -L "$library" "$folder/lib/"
done
cat >"$folder/run" <<'S'
#!/bin/sh
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$here/lib:/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/lectern" "$@"
S
chmod 755 "$folder/run"
need=$(for f in "$folder/lectern" "$folder"/lib/*; do objdump -T "$f"; done 2>/dev/null | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -1)
du -sh "$folder" | cut -f1 | tr '\n' ' '
echo "in $folder; needs $need or newer"
