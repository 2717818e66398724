"""How fast are the matrix kernels alone, by format, instruction set and number of rows?

    python benchmarks/kernels.py --shape 3072,576 --formats q4,q8 --rows 1,4,64

Billions of multiplications and additions a second, on random weights: `--matrices` of them in turn, so that
one row reads memory (40 of q4 in this shape are 44 MB) and many rows the caches; with 1 everything stays in
the cache. For one row the bytes of weights read a second are given too. Best of some runs, because the
machine is shared. `llm-serving doctor --measure` has the limits to compare with. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from results import Results, publish

from llm_serving.native.core import load_core
from llm_serving.native.cpu import cpu_budget

RUNS = 8
# Formats that one kind of tensor has: that kind, weights and bytes of a block, and scales with their place.
SMALL = np.float16(0.001).tobytes()
OWN = {
    "mxfp4": ("MXFP4", 32, 17, 0, b"\x7b"),
    "iq4_nl": ("IQ4_NL", 32, 18, 0, SMALL),
    "iq4_xs": ("IQ4_XS", 256, 136, 0, SMALL),
    "iq2": ("IQ2_CODED", 256, 146, 0, SMALL),
    "iq3_s": ("IQ3_S_CODED", 256, 138, 0, SMALL),
    "q4_k": ("Q4_K", 256, 144, 0, SMALL * 2),
    "q3_k": ("Q3_K", 256, 110, 108, SMALL),
    "q5": ("Q5_0", 32, 22, 0, SMALL),
    "q5_k": ("Q5_K", 256, 176, 0, SMALL * 2),
    "q6": ("Q6_K", 256, 210, 208, SMALL),
}
# Of a weight, scales counted in.
BITS = {
    "q4": 5.0,
    "mxfp4": 4.25,
    "iq4_nl": 4.5,
    "iq4_xs": 4.3,
    "iq2": 4.56,
    "iq3_s": 4.3,
    "q4_k": 4.63,
    "q3_k": 4.56,
    "q5": 5.5,
    "q5_k": 5.63,
    "q6": 6.56,
    "s8": 8.5,
    "q8": 8.5,
    "q12": 16.5,
    "f32": 32.0,
}


class Products:
    """One step that is nothing but `count` matrix products of the same input."""

    def __init__(
        self, isa: str, form: str, shape: tuple[int, int], count: int, rows: int, threads: int
    ) -> None:
        outputs, inputs = shape
        self._plan = load_core().Plan(threads, isa, rows, 64)
        rng = np.random.default_rng(0)
        embedding = self._pack(rng, 64, inputs, "f32" if form == "f32" else "q8")
        weights = [self._pack(rng, outputs, inputs, form) for _ in range(count)]
        x, self._out = self._plan.buffer(inputs), self._plan.buffer(outputs)
        self._plan.embed(embedding, x)
        self._plan.quantize(x)
        for weight in weights:
            self._plan.linear([(weight, -1, self._out, 0)])
        self._rows = rows
        self._operations = 2.0 * outputs * inputs * rows * count

    def _pack(self, rng: np.random.Generator, rows: int, cols: int, form: str) -> int:
        if form not in OWN:
            values = rng.standard_normal((rows, cols), np.float32)
            return int(self._plan.pack("F32", values.view(np.uint8).reshape(-1), rows, cols, form, None))
        kind, size, num_bytes, at, scales = OWN[form]
        blocks = rng.integers(0, 256, (rows * cols // size, num_bytes), np.uint8)
        blocks[:, at : at + len(scales)] = np.frombuffer(scales, np.uint8)
        return int(self._plan.pack(kind, blocks.reshape(-1), rows, cols, "auto", None))

    def rate(self) -> float:
        """Operations a second, the best of `RUNS`."""
        ids, none = np.zeros(self._rows, np.int32), np.zeros(0, np.int32)
        positions, starts = np.arange(self._rows, dtype=np.int32) % 64, np.array([0, self._rows], np.int32)
        best_s = float("inf")
        for _ in range(RUNS + 1):
            began_s = time.perf_counter()
            self._plan.run(ids, positions, starts, np.zeros((1, 0), np.int32), none, self._out)
            best_s = min(best_s, time.perf_counter() - began_s)
        return self._operations / best_s


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sets = [name for name in (load_core().tile_set(), *load_core().instruction_sets()) if name]
    parser.add_argument("--shape", type=numbers, default=[3072, 576], help="outputs,inputs")
    parser.add_argument(
        "--formats",
        default=",".join(form for form in BITS if OWN.get(form, ("", 32))[1] == 32),
        help=f"of {', '.join(BITS)}; iq4_xs, q4_k, q3_k, q5_k and q6 want inputs in multiples of 256",
    )
    parser.add_argument("--isa", default=",".join(name for name in sets if name != "scalar"))
    parser.add_argument("--rows", type=numbers, default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--matrices", type=int, default=40)
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    names = arguments.isa.split(",")
    speed = Results(f"GOP/s, {arguments.shape[0]} × {arguments.shape[1]}", names, "")
    reading = Results("GB/s of weights, one row", names, "")
    for _ in range(arguments.repeats):
        for form in arguments.formats.split(","):
            for rows in arguments.rows:
                for isa in names:
                    shape = (arguments.shape[0], arguments.shape[1])
                    rate = Products(isa, form, shape, arguments.matrices, rows, arguments.threads).rate()
                    speed.add(f"{form}, {rows} rows", isa, rate / 1e9)
                    if rows == 1:
                        reading.add(form, isa, rate / 2 * BITS[form] / 8 / 1e9)
    publish([speed, reading], None)


if __name__ == "__main__":
    main()
