"""What rounding costs an answer: the same English with one setting of an option and with others.

    python benchmarks/rounding.py --window 512                       # keys and values in q16, and in q8
    python benchmarks/rounding.py --window 8000 --words 30000
    python benchmarks/rounding.py --quantization f32,q8,auto --model FILE

Windows of the text, none seeing another; tokens of each one's second half are scored. Prints the perplexity
with each, and, against the first, how often the most likely next token is the same and the mean of
KL(first || other) in nats. Text: see english.py.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from perplexity import english
from results import facts

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.protocol import EngineOptions, Step
from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.runner import NativeRunner

CHUNK = 256  # tokens a step


@dataclass
class Compared:
    """Sums over scored tokens, of one setting."""

    loss: float = 0.0
    same: int = 0
    divergence: float = 0.0
    count: int = 0

    def add(self, exact: np.ndarray, rounded: np.ndarray, targets: np.ndarray) -> None:
        """log p of the next token, float64 [n, vocabulary], with the first setting and with this one."""
        self.loss -= float(rounded[np.arange(len(targets)), targets].sum())
        self.same += int((exact.argmax(-1) == rounded.argmax(-1)).sum())
        self.divergence += float((np.exp(exact) * (exact - rounded)).sum())
        self.count += len(targets)

    def as_json(self) -> dict[str, float]:
        return {
            "perplexity": math.exp(self.loss / self.count),
            "same greedy token": self.same / self.count,
            "mean KL": self.divergence / self.count,
        }


def log_p(runner: NativeRunner, ids: np.ndarray, start: int, wanted: bool) -> np.ndarray:
    """Compute ids[start : start + CHUNK] of a window; log p after each of them if wanted, else nothing."""
    tokens = ids[start : start + CHUNK]
    blocks = -(-len(ids) // runner.limits.block_size)
    logits = runner.run(
        Step(
            token_ids=tokens,
            positions=np.arange(start, start + len(tokens), dtype=np.int32),
            query_starts=np.array([0, len(tokens)], np.int32),
            block_tables=np.arange(blocks, dtype=np.int32)[None],
            logit_rows=np.arange(len(tokens) if wanted else 0, dtype=np.int32),
        )
    ).astype(np.float64)
    if not wanted:
        return logits
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="catalogue name or GGUF file")
    parser.add_argument("--words", type=int, default=20000)
    parser.add_argument("--window", type=int, default=512, help="tokens, cut to a multiple of 512")
    parser.add_argument("--kv-cache", default="q16,q8", help="settings to compare")
    parser.add_argument("--quantization", help="the same of weights; then keys and values are in q16")
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    window = max(arguments.window // 512, 1) * 512
    model = Path(resolve_model(arguments.model))
    checkpoint = open_checkpoint(model)
    ids = np.array(build_tokenizer(checkpoint).encode(english(arguments.words)), np.int32)
    options = EngineOptions(threads=arguments.threads, context_length=window, max_concurrency=1)
    option = "quantization" if arguments.quantization else "kv_cache"
    runners = {
        name: build_runner(checkpoint, replace(options, **{option: name}))
        for name in getattr(arguments, option).split(",")
    }
    compared = {name: Compared() for name in runners}
    for begin in range(0, len(ids) - window, window):
        text = ids[begin : begin + window + 1]
        for start in range(0, window, CHUNK):
            scored = start >= window // 2
            rows = {name: log_p(runner, text[:-1], start, scored) for name, runner in runners.items()}
            if scored:
                first = next(iter(rows.values()))
                for name, row in rows.items():
                    compared[name].add(first, row, text[start + 1 : start + CHUNK + 1])
    for runner in runners.values():
        runner.close()
    scores = {name: one.as_json() for name, one in compared.items()}
    scored = next(iter(compared.values())).count
    result = {**facts(), "model": model.name, "window": window, "scored": scored, option: scores}
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
