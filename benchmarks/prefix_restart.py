"""What does --prefix-cache-dir give after a restart, and what does writing cost those who read a stream?

    python benchmarks/prefix_restart.py [--repeats 5] [--only restart|writing]

Restart: a server answers a question behind a long text, is ended, started again, warmed with a few words, and
answers another question behind the same text. The time to its first token, with the directory and without,
and once more when the text is in memory. Writing, inside this process: one sequence decodes while new prompts
are read, 16 tokens in every step, so that steps with the directory and without do the same work.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import peers
from english import passage
from peers import Server
from results import Results, publish, turns

from llm_serving.backends.native_backend import build_runner
from llm_serving.backends.tier import open_tier
from llm_serving.checkpoints import open_checkpoint
from llm_serving.cli.bench_http import Outcome
from llm_serving.engine.budget import PrefillBudget
from llm_serving.engine.core import EngineCore
from llm_serving.engine.protocol import EngineOptions
from llm_serving.engine.request import GenerateRequest, SamplingParams
from llm_serving.native.sampler import NativeSampler

NAMES = ["with a directory", "without"]
TEXT_WORDS = 800  # about 1 k tokens
STREAM_TOKENS, PROMPT_TOKENS, STEP_TOKENS = 400, 260, 16
WARM_STEPS = 20


def bodies(server: Server, *texts: str) -> list[bytes]:
    return [peers.chat_body(server, text, 4) for text in texts]


def restarted(server: Server, logs: Path, seed: int) -> tuple[Outcome, Outcome]:
    """(the first question behind the text after a restart, one more)."""
    text = passage(TEXT_WORDS, seed)
    with peers.running(server, logs):
        asyncio.run(peers.ask(server, *bodies(server, f"{text}\n\nWho speaks?")))
    questions = ("Hello!", f"{text}\n\nWhat is it about?", f"{text}\n\nWhich year is it?")
    with peers.running(server, logs):
        _, first, second = asyncio.run(peers.ask(server, *bodies(server, *questions)))
    return first, second


class FixedBudget(PrefillBudget):
    """Whatever steps cost, or the two would read prompts at different rates."""

    def num_tokens(self, num_rows: int, num_waiting: int = 1) -> int:
        return STEP_TOKENS


def step_times(model: Path, threads: int) -> Callable[[Path | None], tuple[list[float], int]]:
    """A function of the directory: (seconds of each step, blocks written by the last)."""
    options = EngineOptions(threads=threads, max_concurrency=8, speculation="off")
    runner = build_runner(open_checkpoint(model), options)
    sampler = NativeSampler(threads, runner.isa)
    draw = random.Random(1)

    def request(name: str, num_prompt: int, num_output: int) -> GenerateRequest:
        ids = [draw.randrange(runner.limits.vocab_size) for _ in range(num_prompt)]
        return GenerateRequest(name, ids, SamplingParams(num_output, temperature=0.0))

    def measure(directory: Path | None) -> tuple[list[float], int]:
        tier = open_tier(runner, runner.content, replace(options, prefix_dir=directory, prefix_bytes=4 << 30))
        core = EngineCore(runner, sampler, [], options, lambda events: None, print, tier)
        core.scheduler.budget = FixedBudget(1.0)
        core.submit(request("stream", 100, STREAM_TOKENS))
        seconds: list[float] = []
        while True:
            if not core.scheduler.waiting:
                core.submit(request(f"prompt {len(seconds)}", PROMPT_TOKENS, 1))
            begin = time.perf_counter()
            events = core.step()
            seconds.append(time.perf_counter() - begin)
            if any(event.request_id == "stream" and event.finish_reason for event in events):
                break
        written = core.stats("").num_written_blocks
        core.close()
        return seconds[WARM_STEPS:], written

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("restart", "writing"))
    arguments = parser.parse_args()
    model, (plain,) = peers.chosen(arguments)
    first = Results("behind 1 k tokens, time to the first token, ms", NAMES, "")
    cached = Results("of them from the cache, tokens", NAMES, "")
    steps = Results("step of one decoding sequence and 16 prompt tokens, ms", NAMES, "")
    written = Results("blocks written meanwhile", NAMES, "")
    directory = Path(tempfile.mkdtemp(prefix="prefix-cache-"))
    try:
        keeping = replace(plain, command=[*plain.command, "--prefix-cache-dir", str(directory / "server")])
        for repeat in range(arguments.repeats if arguments.only != "writing" else 0):
            for name in turns(NAMES, repeat):
                outcomes = restarted(keeping if name == NAMES[0] else plain, arguments.logs, repeat)
                for row, outcome in zip(("after a restart", "again"), outcomes, strict=True):
                    first.add(row, name, (outcome.first_s - outcome.start_s) * 1e3)
                    cached.add(row, name, outcome.cached_tokens)
        if arguments.only != "restart":
            measure = step_times(model, arguments.threads)
            for repeat in range(arguments.repeats):
                for name in turns(NAMES, repeat):
                    seconds, count = measure(directory / str(repeat) if name == NAMES[0] else None)
                    seconds.sort()
                    steps.add("median", name, statistics.median(seconds) * 1e3)
                    steps.add("mean", name, statistics.fmean(seconds) * 1e3)
                    steps.add("99 %", name, seconds[len(seconds) * 99 // 100] * 1e3)
                    written.add("blocks", name, count)
    finally:
        shutil.rmtree(directory)
    publish([first, cached, steps, written], arguments.json, model=model.name)


if __name__ == "__main__":
    main()
