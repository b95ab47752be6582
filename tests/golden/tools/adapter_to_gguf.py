#!/usr/bin/env python3
"""LoRA adapter, safetensors -> GGUF v3 for llama.cpp (float32).

usage: adapter_to_gguf.py ADAPTER.safetensors OUT.gguf   (needs numpy)

The input's tensors are bf16 blk.N.attn_X.weight.lora_a [r][in] and .lora_b
[out][r], rows in GGUF order, any scale already in lora_b; so alpha = r.
"""
import json
import struct
import sys

import numpy as np

ALIGN = 32
TYPE_F32, KV_UINT32, KV_FLOAT32, KV_STRING = 0, 4, 6, 8


def string(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def pad(n):
    return -n % ALIGN


def main(src, dst):
    data = open(src, "rb").read()
    (head_len,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8:8 + head_len])
    head.pop("__metadata__", None)
    tensors, ranks = [], set()
    for name, info in sorted(head.items()):
        assert info["dtype"] == "BF16"
        begin, end = (8 + head_len + o for o in info["data_offsets"])
        wide = np.frombuffer(data[begin:end], "<u2").astype("<u4") << 16
        shape = info["shape"]
        ranks.add(shape[0] if name.endswith(".lora_a") else shape[1])
        tensors.append((name, shape, wide.tobytes()))  # the bits of the float32s
    (rank,) = ranks

    kv = [("general.architecture", KV_STRING, string("llama")),
          ("general.type", KV_STRING, string("adapter")),
          ("adapter.type", KV_STRING, string("lora")),
          ("adapter.lora.alpha", KV_FLOAT32, struct.pack("<f", rank)),
          ("general.alignment", KV_UINT32, struct.pack("<I", ALIGN))]
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(kv)))
    for key, kind, value in kv:
        out += string(key) + struct.pack("<I", kind) + value
    offset = 0
    for name, shape, blob in tensors:
        out += string(name) + struct.pack("<I", len(shape))
        out += struct.pack(f"<{len(shape)}Q", *reversed(shape))  # fastest first
        out += struct.pack("<IQ", TYPE_F32, offset)
        offset += len(blob) + pad(len(blob))
    out += bytes(pad(len(out)))
    for _, _, blob in tensors:
        out += blob + bytes(pad(len(blob)))
    open(dst, "wb").write(out)
    print(f"{len(tensors)} tensors, rank {rank}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
