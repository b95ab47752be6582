#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# cuda-check.sh BUILD/cuda - gates on what the compiler made of the card's kernels, without a card: no kernel
# spills registers to memory, no setmaxnreg was ignored, and the kernels that live from the tensor cores use them
# (asked of cuobjdump, where the toolkit has it).
# Prints a line for each kernel: architecture, registers, file, name.
set -u
folder=${1:?usage: cuda-check.sh BUILD/cuda}
demangle=$(command -v c++filt || echo cat)
wrong=0

awk '
    FNR == 1 { file = FILENAME; sub(/.*\//, "", file); sub(/ptxas$/, "cu", file) }
    /Compiling entry function/ { split($0, part, "\047"); name = part[2]; arch = part[4]; bad = "" }
    /bytes spill stores/ && !/ 0 bytes spill stores, 0 bytes spill loads/ { bad = "  SPILLS" }
    /Used [0-9]+ registers/ {
        for (i = 1; i < NF; i++) if ($i == "Used") registers = $(i + 1)
        printf "%-7s %3d  %-24s %s%s\n", arch, registers, file, name, bad
        kernels++
        if (bad != "") failed = 1
    }
    /setmaxnreg.*ignored/ { print file ": setmaxnreg ignored"; failed = 1 }
    END { exit failed || !kernels }' "$folder"/kernels/cuda/*.ptxas | $demangle
[ "${PIPESTATUS[0]}" -eq 0 ] || { echo 'cuda-check: a kernel spills registers, or there is none' >&2; wrong=1; }

# FILE INSTRUCTION: the object must contain it.
dump=$(command -v cuobjdump || echo "${CUDA_HOME:-/usr/local/cuda}/bin/cuobjdump")
if [ -x "$dump" ]; then
    while read -r file instruction; do
        object=$folder/kernels/cuda/$file.o
        [ -f "$object" ] || continue
        if [ "$("$dump" -sass "$object" 2>/dev/null | grep -c "$instruction")" -eq 0 ]; then
            echo "cuda-check: $file.cu has no $instruction" >&2
            wrong=1
        fi
    done <<'T'
prefill_sm90 HGMMA
prefill_sm80 HMMA
prefill_stream HMMA
cuda_skinny HMMA
cuda_attend_decode HMMA
T
fi
[ $wrong -eq 0 ] && echo 'cuda-check: no kernel spills'
exit $wrong
