"""What does a token's sampling cost, per row, in C++ and in numpy?

    python benchmarks/sampling.py [--vocab 151936] [--threads 1] [--rows 1,16]

Random logits: `steep` as a trained model's (deviation 3 beside one far ahead), `flat` as an untrained model's
(deviation 0.02: every id has a weight, the worst case). Penalties look at 1 000 prompt and 200 output ids.
Median of 30 calls, samplers in turn. Prints a Markdown table in milliseconds a row.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from llm_serving.engine.protocol import Sampler, SamplingRow
from llm_serving.engine.request import SamplingParams
from llm_serving.engine.sampler import NumpySampler
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.sampler import NativeSampler

CALLS = 30
PENALTIES = {"repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1}
CASES: dict[str, dict[str, float]] = {
    "greedy": {"temperature": 0.0},
    "temperature 0.7": {"temperature": 0.7},
    "top_p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "top_k 40": {"temperature": 0.7, "top_k": 40},
    "min_p 0.05": {"temperature": 0.7, "min_p": 0.05},
}
CASES |= {f"{name}, penalties": {**params, **PENALTIES} for name, params in list(CASES.items())}


def milliseconds(samplers: list[Sampler], logits: np.ndarray, rows: list[SamplingRow]) -> list[float]:
    times: list[list[float]] = [[] for _ in samplers]
    for _ in range(CALLS):
        for sampler, seconds in zip(samplers, times, strict=True):
            scratch = logits.copy()
            start = time.perf_counter()
            sampler.sample(scratch, rows)
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) * 1e3 / len(rows) for seconds in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--rows", default="1,16")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    prompt, output = (rng.integers(0, args.vocab, count).tolist() for count in (1000, 200))
    samplers: list[Sampler] = [NativeSampler(args.threads), NumpySampler()]
    print(f"{args.vocab} ids, {args.threads} threads; ms a row\n")
    print("| logits | rows | parameters | C++ | numpy |\n|---|---|---|---|---|")
    for shape, deviation in (("steep", 3.0), ("flat", 0.02)):
        for count in map(int, args.rows.split(",")):
            logits = rng.normal(0, deviation, (count, args.vocab)).astype(np.float32)
            if shape == "steep":
                logits[:, 17] = 20.0
            for name, params in CASES.items():
                rows = [
                    SamplingRow(SamplingParams(1, seed=i, **params), i, prompt, output)  # type: ignore[arg-type]
                    for i in range(count)
                ]
                ours, theirs = milliseconds(samplers, logits, rows)
                print(f"| {shape} | {count} | {name} | {ours:.3f} | {theirs:.3f} |")


if __name__ == "__main__":
    main()
