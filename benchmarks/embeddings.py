"""How fast are embeddings, beside other libraries, on the same texts?

    ~/peers/emb/bin/python benchmarks/peer_files.py ~/.cache/llm-serving-bench     # once, see there
    ~/peers/emb/bin/python benchmarks/embeddings.py [--json embeddings.json]

All engines live in this process and take turns; every figure includes tokenising. Texts are passages of
real English (english.py): mixed, mean near 70 tokens, and short, mean near 12. Prints Markdown tables.
`--engines "llm_serving,llm_serving avx2"` adds ours as it is on CPUs that have no more than AVX2; torch is
held to that by ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 ATEN_CPU_CAPABILITY=avx2.
Over HTTP: embeddings_http.py.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from embedders import BATCH, MAX_TOKENS, Embed, fastembed, llama_cpp, onnx, ours, sentence_transformers
from english import CACHE, passages
from results import Results, publish, turns

from llm_serving.checkpoints import build_encoder_tokenizer, open_checkpoint
from llm_serving.models import resolve_model
from llm_serving.native.core import load_core
from llm_serving.native.cpu import cpu_budget

TEXTS = {"mixed": 64.0, "short": 10.5}  # words on average
TILES, SETS = load_core().tile_set(), load_core().instruction_sets()
# Than what ours chooses here, with tiles by a text's length.
OTHER_SETS = [TILES, *SETS] if TILES else SETS[1:]
EXACT = "sentence-transformers"


def makers(model: Path, files: Path, threads: int) -> dict[str, Callable[[], Embed]]:
    """Every engine by name; the first is ours as it is served."""
    return {
        "llm_serving": lambda: ours(model, "q8", threads),
        "llm_serving f32": lambda: ours(model, "f32", threads),
        **{f"llm_serving {isa}": partial(ours, model, "q8", threads, isa) for isa in OTHER_SETS},
        EXACT: lambda: sentence_transformers(model, threads),
        "ONNX f32": lambda: onnx(files / "minilm-f32" / "model.onnx", model, threads),
        "ONNX int8": lambda: onnx(files / "minilm-int8" / "model.onnx", model, threads),
        "fastembed": lambda: fastembed(files / "minilm-f32", threads),
        "llama.cpp f16": lambda: llama_cpp(files / "minilm-f16.gguf", threads),
        "llama.cpp q8_0": lambda: llama_cpp(files / "minilm-q8_0.gguf", threads),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="all-minilm-l6-v2")
    parser.add_argument("--files", type=Path, default=CACHE, help="what peer_files.py wrote")
    parser.add_argument("--engines", default="", help="only these, by name, separated by commas")
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=cpu_budget().threads)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = Path(resolve_model(arguments.model))
    known = makers(model, arguments.files, arguments.threads)
    wanted = [name for name in arguments.engines.split(",") if name] or [
        name for name in known if name.removeprefix("llm_serving ") not in OTHER_SETS
    ]
    engines = {name: known[name]() for name in {EXACT: None, **dict.fromkeys(wanted)}}
    names = [name for name in known if name in engines]
    tokenizer = build_encoder_tokenizer(open_checkpoint(model))
    speed, exactness = Results("tokens a second", names), Results("least cosine to f32", names, "", 5)
    for kind, words in TEXTS.items():
        found = passages(words, arguments.texts)
        counted = [(text, len(ids)) for text, ids in zip(found, tokenizer.encode_batch(found), strict=True)]
        texts = [text for text, count in counted if count <= MAX_TOKENS]
        lengths = [count for _, count in counted if count <= MAX_TOKENS]
        row = f"{kind}, {len(texts)} texts, mean {statistics.mean(lengths):.0f} tokens"
        exact = engines[EXACT](texts)
        for name in names:
            exactness.add(row, name, float((engines[name](texts) * exact).sum(1).min()))
        for repeat in range(arguments.repeats):
            for name in turns(names, repeat):
                engines[name](texts[: 2 * BATCH])  # wakes its threads after the others' turns
                started_s = time.perf_counter()
                engines[name](texts)
                speed.add(row, name, sum(lengths) / (time.perf_counter() - started_s))
    publish([speed, exactness], arguments.json)


if __name__ == "__main__":
    main()
