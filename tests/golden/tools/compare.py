#!/usr/bin/env python3
"""KL(llama.cpp || ours), in nats, and top-1 agreement, in one line.

usage: compare.py GOLDEN.lgld|FULL.f32 OURS.f32 [V]   (needs numpy; V is 49152 unless told)

OURS is float32 logits [T][V]. Against a full file the KL is exact. Against a
compact golden file it is the KL of K + 1 buckets (the K top tokens and all
the others together), which is a lower bound of the exact one.
"""
import sys

import numpy as np

from compact import log_softmax


def read_compact(path):
    """ids [T], top ids [T][K], their logprobs [T][K], logprob of the rest [T], V"""
    data = open(path, "rb").read()
    magic, (version, n, n_vocab, k) = data[:4], np.frombuffer(data, "<u4", 4, 4)
    assert magic == b"LGLD" and version == 1
    ids = np.frombuffer(data, "<u4", n, 20)
    pos = np.dtype([("id", "<u2", k), ("logp", "<f4", k), ("rest", "<f4")])
    top = np.frombuffer(data, pos, n, 20 + 4 * n)
    return ids, top["id"].astype(int), top["logp"], top["rest"], int(n_vocab)


def load(path, n_vocab):
    return np.memmap(path, dtype="<f4", mode="r").reshape(-1, n_vocab)


def main(golden, ours_path, n_vocab=49152):
    compact = open(golden, "rb").read(4) == b"LGLD"
    if compact:
        _, top_id, top_logp, rest, n_vocab = read_compact(golden)
        n = len(rest)
    else:
        full = load(golden, n_vocab)
        n = len(full)
    ours = load(ours_path, n_vocab)
    if len(ours) != n:
        sys.exit(f"{golden} has {n} positions, {ours_path} {len(ours)}")
    kl, same = np.zeros(n), np.zeros(n, dtype=bool)
    for t in range(n):
        q = log_softmax(ours[t])
        if compact:
            inside = np.zeros(n_vocab, dtype=bool)
            inside[top_id[t]] = True
            p = np.append(top_logp[t], rest[t]).astype(np.float64)
            q_rest = np.log(np.exp(q[~inside]).sum())
            kl[t] = (np.exp(p) * (p - np.append(q[top_id[t]], q_rest))).sum()
            same[t] = top_id[t][0] == q.argmax()
        else:
            p = log_softmax(full[t])
            kl[t] = (np.exp(p) * (p - q)).sum()
            same[t] = p.argmax() == q.argmax()
    kind = "compact: bucketed KL, a lower bound" if compact else "full"
    print(f"T {n}  KL mean {kl.mean():.3e}  max {kl.max():.3e} (position {kl.argmax()})  "
          f"top-1 {same.sum()}/{n} = {100 * same.mean():.2f} %  [{kind}]")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
