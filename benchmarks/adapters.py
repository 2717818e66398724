"""What do low-rank adapters cost a step?

    python benchmarks/adapters.py --rank 16 --rows 8 --adapters 0,1,4,8

Random adapters of all matrices but the head, on the default model. A decoding step of `--rows` sequences at
`--context`, whose sequences have so many different adapters in turn (0: none of them has one), beside the
same step of a runner that knows none, which is called llm_serving; and a prompt of 512 tokens. In turns,
`--rounds` of them; a decoding step's time is the median of 30. Prints Markdown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from results import OURS, Results, publish

from llm_serving.architectures import describe
from llm_serving.checkpoints import Checkpoint, LowRank, Tensor, open_checkpoint
from llm_serving.engine.protocol import Step
from llm_serving.models import resolve_model
from llm_serving.native import ops
from llm_serving.native.adapters import Adapted
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.runner import BLOCK_SIZE, NativeRunner

PROMPT = 512  # tokens
STEPS = 30  # of a round and case


def random_adapter(checkpoint: Checkpoint, plan: ops.ModelPlan, rank: int, seed: int) -> Adapted:
    """Of all projections of the layers."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, cols: int) -> Tensor:
        values = rng.standard_normal((rows, cols), np.float32) / np.float32(cols**0.5)
        return Tensor("random", "F32", (rows, cols), values.reshape(-1).view(np.uint8))

    linear = [p for op in plan.operations if isinstance(op, ops.Linear) for p in op.projections]
    shapes = {p.tensor: checkpoint.tensor(p.tensor).shape for p in linear[:-1]}
    tensors = {
        name: LowRank(matrix(rank, cols), matrix(rows, rank), 0.1) for name, (rows, cols) in shapes.items()
    }
    return Adapted(tensors, False, seed.to_bytes(16, "little"))


def step_of(rows: int, tokens: int, first: int, adapters: int) -> Step:
    """The next `tokens` of each of `rows` sequences, which have so many adapters in turn."""
    rng = np.random.default_rng(1)
    width = -(-(first + tokens) // BLOCK_SIZE)
    return Step(
        token_ids=rng.integers(17, 20000, rows * tokens).astype(np.int32),
        positions=np.tile(np.arange(first, first + tokens, dtype=np.int32), rows),
        query_starts=np.arange(0, rows * tokens + 1, tokens, dtype=np.int32),
        block_tables=np.arange(rows * width, dtype=np.int32).reshape(rows, width),
        logit_rows=np.arange(tokens - 1, rows * tokens, tokens, dtype=np.int32),
        adapters=(np.arange(rows) % adapters).astype(np.int32) if adapters else None,
    )


def median_ms(runner: NativeRunner, step: Step, count: int, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(count):
        began_s = clock()
        runner.run(step)
        times.append(1e3 * (clock() - began_s))
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--adapters", default="0,1,4,8")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the process, for a busy machine; one thread"
    )
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    checkpoint = open_checkpoint(resolve_model("smollm2-135m-instruct"))
    plan = describe(checkpoint)
    counts = [int(part) for part in args.adapters.split(",")]
    adapters = [random_adapter(checkpoint, plan, args.rank, seed) for seed in range(max(*counts, 1))]

    def runner(*adapters: Adapted) -> NativeRunner:
        return NativeRunner(
            plan,
            checkpoint,
            num_blocks=args.rows * (args.context // BLOCK_SIZE + 2) + PROMPT // BLOCK_SIZE,
            max_context=1024,
            max_sequences=args.rows,
            threads=1 if args.cpu_time else args.threads,
            adapters=adapters,
        )

    plain, adapted = runner(), runner(*adapters)
    names = {count: f"{count} of {len(adapters)} adapters" for count in counts}
    table = Results("ms a step", [OURS, *names.values()], "lower")
    for repeat in range(args.rounds + 1):  # the first warms up
        for row, rows, tokens, first, steps in (
            (f"{args.rows} sequences decode", args.rows, 1, args.context, STEPS),
            (f"a prompt of {PROMPT}", 1, PROMPT, 0, 1),
        ):
            base = median_ms(plain, step_of(rows, tokens, first, 0), steps, clock)
            with_some = [
                median_ms(adapted, step_of(rows, tokens, first, count), steps, clock)
                if count <= rows
                else None
                for count in counts
            ]
            for name, value in zip(table.engines, [base, *with_some], strict=True):
                if repeat:
                    table.add(row, name, value)
    publish([table], None)


if __name__ == "__main__":
    main()
