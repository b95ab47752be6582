#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""restore.py LECTERN DATA_DIR SESSION [RUNS] - how long the first token of a new question takes on a session that
is read already: the restore, the first token as `ask --json` counts it, and the whole process with the model's load
and the citations; medians of RUNS (5), with the session's files in the page cache and dropped from it before (POSIX_FADV_DONTNEED)."""
import glob
import json
import os
import statistics
import subprocess
import sys
import time


def drop(folder):
    for path in glob.glob(folder + "/lectern.db*") + glob.glob(folder + "/segments/*"):
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def ask(program, folder, session, number):
    question = "What is number %d about?" % number
    begun = time.monotonic()
    out = subprocess.run([program, "ask", question, "-s", session, "--data-dir", folder, "--max-tokens", "1",
                          "--json", "--quiet", "--long"], check=True, stdout=subprocess.PIPE).stdout
    took = time.monotonic() - begun
    said = json.loads(out)
    if said["usage"]["prefilled"] or not said["usage"]["restored"]:
        sys.exit("the session is not wholly restored: %s" % said["usage"])
    return took, said["restore"]["seconds"], said["timing"]["first_token_seconds"], said


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    program, folder, session = sys.argv[1:4]
    runs = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    for cold in (0, 1):
        rows = []
        for i in range(runs):
            if cold:
                drop(folder)
            rows.append(ask(program, folder, session, 2 * i + cold))
        said = rows[0][3]
        took, restore, first = (statistics.median(r[k] for r in rows) for k in (0, 1, 2))
        print("%-8s %d tokens, proof %s: restore %.2f s, first token %.2f s, whole process %.2f s" % (
            "dropped" if cold else "cached", said["usage"]["restored"], said["usage"]["proof"], restore, first, took))


main()
