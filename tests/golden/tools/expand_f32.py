#!/usr/bin/env python3
"""Expands a quantised GGUF to float32 weights, for llama.cpp without 8-bit activations.

usage: PYTHONPATH=LLAMA/gguf-py expand_f32.py MODEL.gguf OUT.gguf   (needs numpy)
"""
import sys

import gguf
import numpy as np


def main(src, dst):
    model, out = gguf.GGUFReader(src), gguf.GGUFWriter(dst, "llama")
    for field in model.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
            continue
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        out.add_key_value(field.name, field.contents(), field.types[0],
                          sub_type=field.types[-1] if is_array else None)
    for t in model.tensors:
        out.add_tensor(t.name, gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
