"""What is left of the rate of embeddings beside one busy process per core?

    .venv/bin/python benchmarks/embeddings_disturbed.py

The default embedding model in this process, batches of 16 texts of 64 tokens, alone and beside neighbours
that only count, in turns. Encoders are a little nice: `kEncoderNiceness` in native/src/turns.cpp says how.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time

import numpy as np
from disturbed import neighbours

from llm_serving.backends import load_encoder
from llm_serving.checkpoints import open_checkpoint
from llm_serving.embeddings.encoder import Encoder, EncoderInput
from llm_serving.models import resolve_model

TEXTS, TOKENS = 16, 64


def rate(encoder: Encoder, seconds: float) -> float:
    """Tokens a second, on a thread of its own: as in a server, the main thread is not the encoder's."""
    ids = np.random.default_rng(0).integers(1000, 20000, (TEXTS, TOKENS))
    batch = [EncoderInput(row.tolist()) for row in ids]
    rates: list[float] = []

    def encode() -> None:
        done, started_s = 0, time.perf_counter()
        while time.perf_counter() < started_s + seconds:
            encoder.encode(batch)
            done += TEXTS * TOKENS
        rates.append(done / (time.perf_counter() - started_s))

    thread = threading.Thread(target=encode)
    thread.start()
    thread.join()
    return rates[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    encoder, _ = load_encoder("native", open_checkpoint(resolve_model(arguments.model)))
    rate(encoder, 0.5)
    shares = []
    for _ in range(arguments.repeats):
        alone = rate(encoder, arguments.seconds)
        with neighbours():
            crowded = rate(encoder, arguments.seconds)
        shares.append(100 * crowded / alone)
        print(f"alone {alone:.0f} tok/s, beside neighbours {crowded:.0f}: {shares[-1]:.0f} %")
    print(f"kept: {statistics.median(shares):.0f} % ({min(shares):.0f}–{max(shares):.0f})")


if __name__ == "__main__":
    main()
