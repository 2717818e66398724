"""What do two chat models that answer at once get of the cores?

    .venv/bin/python benchmarks/two_models.py --other build/before

One file as two models in one process, and no HTTP: its clients would need the cores, too. Each has
`--streams` answers under way, or only one of them while the other reads long prompts, or there is one alone.
With `--other`, a folder with another version's `llm_serving` and its extension, the two versions take turns,
each run in a process of its own. Prints the tokens a second of all models together, and the silences between
two tokens of a stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_serving.backends import load_engine
from llm_serving.checkpoints import build_tokenizer, open_checkpoint
from llm_serving.engine.protocol import Engine, EngineOptions
from llm_serving.engine.request import GenerateRequest, SamplingParams
from llm_serving.models import resolve_model

SECONDS = 3.0
PROMPT, LONG_PROMPT = 64, 1500  # tokens
ALONE, BOTH, BESIDE_PROMPTS = LOADS = ("one model alone", "both answer", "the other reads prompts")
FIGURES = {
    "tokens": ("output tok/s, all models", "higher"),
    "prompts": ("prompt tok/s beside them", "higher"),
    "p50": ("silence between tokens, median ms", "lower"),
    "p99": ("silence between tokens, 99 % ms", "lower"),
    "max": ("longest silence between tokens, ms", "lower"),
}


async def stream(engine: Engine, request: GenerateRequest, until_s: float) -> list[float]:
    """When its tokens came, from the second on."""
    times = []
    async with await engine.submit(request) as events:
        async for _ in events:
            times.append(time.perf_counter())
            if times[-1] > until_s:
                break
    return times


async def read_prompts(engine: Engine, request: GenerateRequest, until_s: float) -> int:
    """One long prompt after another; how many tokens of them were read."""
    count = 0
    while time.perf_counter() < until_s:
        prompt = [(count + 7 * i) % 4000 + 5 for i in range(LONG_PROMPT)]  # one that is in no cache
        one = replace(request, request_id=f"p-{count}", prompt_ids=prompt, sampling=SamplingParams(1))
        async with await engine.submit(one) as events:
            async for _ in events:
                pass
        count += LONG_PROMPT
    return count


async def run(path: Path, load: str, streams: int, threads: int) -> dict[str, float]:
    checkpoint = open_checkpoint(path)
    token_bytes = build_tokenizer(checkpoint).token_bytes
    options = EngineOptions(threads=threads, speculation="off", max_concurrency=streams, context_length=2048)
    count = 1 if load == ALONE else 2
    engines = [load_engine("native", checkpoint, token_bytes, options) for _ in range(count)]
    request = GenerateRequest("", [], SamplingParams(max_tokens=1900, temperature=0.0))
    until_s = time.perf_counter() + SECONDS
    reading = None
    if load == BESIDE_PROMPTS:
        reading = asyncio.create_task(read_prompts(engines[1], request, until_s))
    requests = [
        (engine, replace(request, request_id=f"{m}-{s}", prompt_ids=[17 * i + s + 5 for i in range(PROMPT)]))
        for m, engine in enumerate(engines[:1] if reading else engines)
        for s in range(streams)
    ]
    all_times = await asyncio.gather(*(stream(engine, one, until_s) for engine, one in requests))
    prompt_tokens = await reading if reading else 0
    ended_s = time.perf_counter()
    for engine in engines:
        await engine.close()
    begin_s = max(times[0] for times in all_times)  # everybody is past the prompt
    gaps, count = [], 0
    for times in all_times:
        late = [at for at in times if begin_s <= at <= until_s]
        count += len(late)
        gaps += [1e3 * (b - a) for a, b in zip(late, late[1:], strict=False)]
    gaps.sort()
    return {
        "tokens": count / (until_s - begin_s),
        "prompts": prompt_tokens / (ended_s - until_s + SECONDS),
        "p50": gaps[len(gaps) // 2],
        "p99": gaps[int(0.99 * len(gaps))],
        "max": gaps[-1],
    }


def in_a_process(arguments: argparse.Namespace, load: str, folder: Path | None) -> dict[str, float]:
    command = [sys.executable, __file__, "--run", load, "--model", arguments.model]
    command += ["--streams", str(arguments.streams), "--threads", str(arguments.threads)]
    # A script's folder comes first on its path, not the one it is called in.
    path = str(folder.resolve()) if folder else os.environ.get("PYTHONPATH", "")
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    import peers
    from results import OURS, Results, publish, turns

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_own_arguments(parser)
    parser.add_argument("--other", type=Path, help="folder with another version's package and extension")
    parser.add_argument("--streams", type=int, default=4, help="of each model")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--run", choices=LOADS, help="one run, here, as JSON")
    parser.add_argument("--only", choices=LOADS)
    arguments = parser.parse_args()
    path = Path(resolve_model(arguments.model))
    if arguments.run:
        figures = asyncio.run(run(path, arguments.run, arguments.streams, arguments.threads))
        print(json.dumps(figures))
        return
    versions: dict[str, Any] = {OURS: None, **({"other": arguments.other} if arguments.other else {})}
    tables = {key: Results(title, list(versions), better) for key, (title, better) in FIGURES.items()}
    for repeat in range(arguments.repeats):
        for load in [arguments.only] if arguments.only else LOADS:
            for version in turns(list(versions), repeat):
                for key, value in in_a_process(arguments, load, versions[version]).items():
                    tables[key].add(load, version, value or None)
    publish(list(tables.values()), arguments.json, model=path.name)


if __name__ == "__main__":
    main()
