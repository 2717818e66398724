"""How fast are we over HTTP, beside llama.cpp's server, on the same file and the same cores?

    python -m venv /some/where && /some/where/bin/pip install xllamacpp
    .venv/bin/python benchmarks/chat_http.py --peer-python /some/where/bin/python

Both servers are up; only one is under load at a time, and they take turns. The load generator shares the
cores with the server under test. Tokens are counted from each server's `usage`. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llm_serving.models import resolve_model
from llm_serving.native.cpu import cpu_budget

HERE = Path(__file__).parent
SCRIPT = Path(sys.executable).with_name("llm-serving")


@dataclass(frozen=True)
class Scenario:
    """One kind of load; `figure` is the number that is compared."""

    name: str
    clients: int
    requests: int
    prompt_tokens: int
    max_tokens: int
    figure: str
    shared_prefix: int = 0

    def options(self, seed: int) -> list[str]:
        return [
            *("--clients", str(self.clients), "--requests", str(self.requests), "--warmup", "1"),
            *("--prompt-tokens", str(self.prompt_tokens), "--max-tokens", str(self.max_tokens)),
            *("--shared-prefix", str(self.shared_prefix), "--seed", str(seed), "--timeout", "600"),
        ]


SCENARIOS = (
    Scenario("prefill 512, prompt tok/s", 1, 4, 512, 2, "prompt_tok_s"),
    Scenario("1 client, output tok/s", 1, 4, 128, 64, "output_tok_s"),
    Scenario("8 clients, output tok/s", 8, 16, 128, 64, "output_tok_s"),
    Scenario("16 clients, output tok/s", 16, 32, 128, 64, "output_tok_s"),
    Scenario("8 clients, shared 1 k prefix, output tok/s", 8, 16, 1100, 64, "output_tok_s", 1000),
    Scenario("8 clients, shared 1 k prefix, median TTFT ms", 8, 16, 1100, 64, "ttft_ms", 1000),
)


@contextlib.contextmanager
def running(command: list[str], url: str, log: Path) -> Iterator[None]:
    """Start a server and wait until it answers; end it on leaving."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}; see {log}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=1).close()
                break
            time.sleep(0.1)
        else:
            raise SystemExit(f"{url} did not answer within a minute; see {log}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def measure(url: str, scenario: Scenario, seed: int) -> float:
    """One load run in a process of its own; the scenario's figure."""
    command = [str(SCRIPT), "bench", "--url", url, "--json", *scenario.options(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    summary = json.loads(done.stdout or "{}")
    if done.returncode or summary.get("errors"):
        raise SystemExit(f"load on {url} failed: {summary.get('errors')} {done.stderr[-400:]}")
    value = summary[scenario.figure]
    return float(value["p50"] if isinstance(value, dict) else value)


def row(name: str, ours: list[float], peers: list[float]) -> str:
    ratios = [a / b for a, b in zip(ours, peers, strict=True)]
    cells = [
        f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})" for values in (ours, peers)
    ]
    cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="a Python that has xllamacpp")
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--slots", type=int, default=16, help="of the peer; ours takes what comes")
    parser.add_argument("--only", default="", help="part of the scenarios' names")
    parser.add_argument("--logs", type=Path, default=Path("build"))
    arguments = parser.parse_args()
    arguments.logs.mkdir(exist_ok=True)
    model = str(resolve_model(arguments.model))
    threads = cpu_budget().threads
    scenarios = [scenario for scenario in SCENARIOS if arguments.only in scenario.name]
    ours = [str(SCRIPT), "serve", model, "--port", "8101", "--threads", str(threads)]
    peer = [arguments.peer_python, str(HERE / "serve_xllamacpp.py"), model, "--port", "8102"]
    peer += ["--threads", str(threads), "--slots", str(arguments.slots), "--context", "2048"]
    urls = ("http://127.0.0.1:8101", "http://127.0.0.1:8102")
    results: dict[str, tuple[list[float], list[float]]] = {s.name: ([], []) for s in scenarios}
    with (
        running(ours, urls[0] + "/ready", arguments.logs / "ours.log"),
        running(peer, urls[1] + "/health", arguments.logs / "peer.log"),
    ):
        for repeat in range(arguments.repeats):
            for scenario in scenarios:
                for which in (0, 1) if repeat % 2 == 0 else (1, 0):
                    value = measure(urls[which], scenario, seed=1000 * repeat + 1)
                    results[scenario.name][which].append(value)
                    print(
                        f"# {repeat} {scenario.name}: {'ours' if which == 0 else 'peer'} {value:.1f}",
                        file=sys.stderr,
                    )
    print(
        f"{threads} threads, {arguments.repeats} interleaved repeats, median (min–max), "
        f"load average {os.getloadavg()[0]:.1f}\n"
    )
    print("| | llm_serving | llama.cpp server | ratio |\n|---|---|---|---|")
    for name, values in results.items():
        print(row(name, *values))


if __name__ == "__main__":
    main()
