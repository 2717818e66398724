"""A large model and small ones that agree with it more or less, all made of one: for speed, not for sense.

Nobody's pair of one vocabulary fits through a package registry, so SmolLM2-135M is both: padded with zeros to
the size of a large model, and disturbed. Zero rows of the gates and zero columns behind them change no
number: the padded model says what the small one says, at the cost of reading all its zeros. Noise on the
small one's weights, in units of their deviation, makes it disagree as much as a weaker model would.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

Change = Callable[[str, gguf.ReaderTensor], np.ndarray]  # name and tensor to bytes of the same kind


def write_padded(source: Path, path: Path, ffn: int) -> Path:
    """`source` with an intermediate size of `ffn`. Returns `path`; keeps what is there."""
    if path.exists():
        return path

    def pad(name: str, tensor: gguf.ReaderTensor) -> np.ndarray:
        if not any(part in name for part in ("ffn_gate.", "ffn_up.", "ffn_down.")):
            return tensor.data
        columns, rows = (int(n) for n in tensor.shape)
        row_bytes = tensor.data.shape[1]
        if "ffn_down" in name:  # blocks of zero bytes are zeros, in all kinds used here
            return np.pad(tensor.data, ((0, 0), (0, row_bytes * ffn // columns - row_bytes)))
        return np.pad(tensor.data, ((0, ffn - rows), (0, 0)))

    return _rewrite(source, path, pad, {"feed_forward_length": ffn})


def write_disturbed(source: Path, path: Path, noise: float) -> Path:
    """`source` with `noise` on its matrices but the embedding. Returns `path`; keeps what is there."""
    if path.exists():
        return path
    rng = np.random.default_rng(round(1000 * noise))

    def disturb(name: str, tensor: gguf.ReaderTensor) -> np.ndarray:
        if len(tensor.shape) < 2 or name.startswith("token_embd"):
            return tensor.data
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        values = values + rng.normal(0.0, noise * values.std(), values.shape).astype(np.float32)
        return gguf.quants.quantize(values, tensor.tensor_type)

    return _rewrite(source, path, disturb, {})


def _rewrite(source: Path, path: Path, change: Change, sizes: dict[str, int]) -> Path:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    changed = {f"{architecture}.{key}": value for key, value in sizes.items()}
    partial = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, architecture)
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue
        kind, *sub = field.types
        value = changed.get(field.name, field.contents())
        writer.add_key_value(field.name, value, kind, sub_type=sub[-1] if sub else None)
    for tensor in reader.tensors:
        data = change(tensor.name, tensor)
        writer.add_tensor(tensor.name, np.ascontiguousarray(data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)
    return path
