"""How fast are we over HTTP, beside other servers, on the same file and the same cores?

    python benchmarks/chat_http.py --llama ~/peers/llama --xllamacpp ~/peers/xlla
    python benchmarks/chat_http.py --llama ~/peers/llama --suite clients --json clients.json
    python benchmarks/chat_http.py --llama ~/peers/llama --suite prefix  --json prefix.json
    python benchmarks/chat_http.py --llama ~/peers/llama --suite open    --json open.json
    python benchmarks/chat_http.py --transformers ~/peers/emb ~/.cache/llm-serving-bench/smollm2-f32
    python benchmarks/chat_http.py --llama ~/peers/llama --suite size --slots 8 --model random-3b-q4_0.gguf

The last is for larger models, of which there is less of everything; their files: random_model.py. How the
environments are made: peers.py, engine.py. All servers are up; only one is under load at a time, and they
take turns. The load generator (`llm-serving bench --url`) shares the cores with the server under test.
Answers are greedy and of full length, but for `transformers serve`, where they end as the model likes; tokens
are counted from each server's `usage`. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import peers
from peers import Server
from results import Deadline, Results, publish, save, turns

# What is taken from the summary of a load run: title, key, percentile, which direction is good.
FIGURES = {
    "prompt": ("prompt tok/s", "prompt_tok_s", "", "higher"),
    "output": ("output tok/s", "output_tok_s", "", "higher"),
    "ttft": ("time to first token, median ms", "ttft_ms", "p50", "lower"),
    "ttft95": ("time to first token, 95 % ms", "ttft_ms", "p95", "lower"),
    "itl": ("time per further token, median ms", "itl_ms", "p50", "lower"),
    "gap": ("longest silence between tokens, ms", "gap_ms", "max", "lower"),
}


@dataclass(frozen=True)
class Load:
    """One kind of load, closed loop with `clients` or open loop with `rate` requests a second."""

    name: str
    requests: int
    prompt_tokens: int
    max_tokens: int
    figures: tuple[str, ...]
    clients: int = 1
    rate: float | None = None
    shared_prefix: int = 0

    def options(self, seed: int) -> list[str]:
        how = ["--rate", str(self.rate)] if self.rate else ["--clients", str(self.clients)]
        return [
            *how,
            *("--requests", str(self.requests), "--warmup", "1", "--timeout", "600"),
            *("--prompt-tokens", str(self.prompt_tokens), "--max-tokens", str(self.max_tokens)),
            *("--shared-prefix", str(self.shared_prefix), "--seed", str(seed)),
        ]


def suite(name: str) -> list[Load]:
    if name == "clients":
        all_figures = ("output", "ttft", "itl")
        return [
            Load(f"{n} clients", max(4, 2 * n), 128, 64, all_figures, n) for n in (1, 2, 4, 8, 16, 32, 64)
        ]
    if name == "prefix":
        return [
            Load(f"8 clients, shared {n}", 16, n + 100, 64, ("output", "ttft"), 8, shared_prefix=n)
            for n in (0, 128, 512, 1024, 2048)
        ]
    if name == "open":
        figures = ("ttft", "ttft95", "itl", "gap")
        return [Load(f"{r:g} requests/s", round(20 * r), 128, 64, figures, rate=r) for r in (0.5, 1, 2, 4)]
    if name == "size":
        return [
            Load("1 client, prompt of 128", 3, 128, 2, ("prompt",)),
            Load("1 client", 3, 64, 32, ("output", "itl")),
            Load("8 clients", 8, 64, 32, ("output", "ttft"), 8),
        ]
    return [
        Load("1 client, prompt of 512", 4, 512, 2, ("prompt",)),
        Load("1 client", 4, 128, 64, ("output", "ttft", "itl")),
        Load("8 clients", 16, 128, 64, ("output", "ttft"), 8),
        Load("16 clients", 32, 128, 64, ("output", "ttft"), 16),
        Load("8 clients, shared 1 k", 16, 1100, 64, ("output", "ttft", "gap"), 8, shared_prefix=1000),
    ]


def run_load(server: Server, load: Load, seed: int) -> dict[str, Any]:
    """The summary of one load run, made in a process of its own. Raises: SystemExit if a request failed."""
    command = [sys.executable, "-m", "llm_serving.cli", "bench", server.model, "--url", server.url, "--json"]
    command += [] if server.ignores_eos else ["--no-ignore-eos"]
    done = subprocess.run([*command, *load.options(seed)], capture_output=True, text=True, check=False)
    summary: dict[str, Any] = json.loads(done.stdout or "{}")
    if done.returncode or summary.get("errors"):
        raise SystemExit(f"load on {server.name} failed: {summary.get('first_error')} {done.stderr[-400:]}")
    return summary


def take(summary: dict[str, Any], figure: str) -> float | None:
    _, key, part, _ = FIGURES[figure]
    found: float | None = summary[key].get(part) if part else summary[key]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_arguments(parser)
    parser.add_argument("--suite", choices=("main", "clients", "prefix", "open", "size"), default="main")
    parser.add_argument("--only", default="", help="part of the loads' names")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0, help="begin no load after these; 0: all repeats")
    arguments = parser.parse_args()
    # Random weights repeat themselves, which guessing ahead would profit from as no real model does.
    options = ["--speculation", "off"] if arguments.suite == "size" else []
    model, servers = peers.chosen(arguments, *options)
    chosen = {server.name: server for server in servers}
    loads = [load for load in suite(arguments.suite) if arguments.only in load.name]
    tables = {key: Results(figure[0], list(chosen), figure[3]) for key, figure in FIGURES.items()}
    with contextlib.ExitStack() as stack:
        for server in chosen.values():
            stack.enter_context(peers.running(server, arguments.logs))
        deadline = Deadline(arguments.minutes)
        for repeat in range(arguments.repeats):
            for number, load in enumerate(loads):
                if deadline.is_over():
                    break
                for name in turns(list(chosen), repeat):
                    # Of its own: with the seed of another load, its prompts are in every server's cache.
                    summary = run_load(chosen[name], load, seed=1000 * repeat + number)
                    for figure in load.figures:
                        tables[figure].add(load.name, name, take(summary, figure))
                save(list(tables.values()), arguments.json, model=model.name, suite=arguments.suite)
    publish(list(tables.values()), arguments.json, model=model.name, suite=arguments.suite)


if __name__ == "__main__":
    main()
