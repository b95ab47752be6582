#!/usr/bin/env python3
"""Full logits -> compact golden file (format: ../README.md).

usage: compact.py IDSFILE LOGITS.f32 OUT.lgld   (needs numpy)
"""
import sys

import numpy as np

K = 32


def log_softmax(rows):
    x = rows.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def main(ids_path, logits_path, out_path):
    ids = np.array(open(ids_path).read().split(), dtype="<u4")
    logits = np.memmap(logits_path, dtype="<f4", mode="r").reshape(len(ids), -1)
    n_vocab = logits.shape[1]
    assert n_vocab <= 65536
    with open(out_path, "wb") as out:
        out.write(b"LGLD")
        out.write(np.array([1, len(ids), n_vocab, K], dtype="<u4").tobytes())
        out.write(ids.tobytes())
        for row in logits:
            logp = log_softmax(row)
            order = np.argsort(-logp, kind="stable")  # ties: smaller id first
            rest = np.log(np.exp(logp[order[K:]]).sum())
            out.write(order[:K].astype("<u2").tobytes())
            out.write(logp[order[:K]].astype("<f4").tobytes())
            out.write(np.float32(rest).tobytes())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
