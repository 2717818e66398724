"""What does a server cost before it works: start to first token, memory, and CPU while idle.

    python benchmarks/server_cost.py --llama ~/peers/llama --xllamacpp ~/peers/xlla

Each is started anew every repeat, alone; one start before is not counted, so that the file is in the page
cache. Start to first token runs from the process' creation to the first event with text of a request that
is repeated until it is served. Ours is also started with no packed weights on disk, as the very first time,
in a cache of its own. Memory is resident memory some seconds after that answer, less the model's file: ours
makes what forms of answers need, and room for keys and values, when nobody asks for anything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import peers
from cpu_time import cpu_seconds
from peers import Server
from results import OURS, Results, publish, turns

from llm_serving.cli.bench_http import ChatClient, parse_target
from llm_serving.models import packed_directory

_SETTLED_S = 4.0  # what a server does once it is quiet is done


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"process {pid} is gone")


async def first_token(server: Server, deadline_s: float) -> float:
    """`time.perf_counter()` of the first text. Raises: SystemExit when there is none before the deadline."""
    client = ChatClient(parse_target(server.url, None))
    body = peers.chat_body(server, "Say something about the sea.", 8)
    try:
        while time.perf_counter() < deadline_s:
            outcome = await client.complete(body, time.perf_counter(), 60)
            if outcome.first_s:
                return outcome.first_s
            await asyncio.sleep(0.005)
    finally:
        await client.close()
    raise SystemExit(f"{server.name} did not answer: {outcome.error} {outcome.detail}")


def life(server: Server, logs: Path, idle_s: float) -> tuple[float, int, float]:
    """(start to first token in seconds, resident bytes, idle CPU in percent of one core)."""
    with (logs / f"{server.name.replace(' ', '-')}.log").open("wb") as log:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            server.command, stdout=log, stderr=log, env={**os.environ, **server.environment}
        )
        try:
            spoke_s = asyncio.run(first_token(server, started_s + 120))
            time.sleep(_SETTLED_S)
            memory = resident_bytes(process.pid)
            before = cpu_seconds(process.pid)
            time.sleep(idle_s)
            idle = 100 * (cpu_seconds(process.pid) - before) / idle_s
        finally:
            peers.end(process)
    return spoke_s - started_s, memory, idle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--idle", type=float, default=5.0, help="seconds of looking at an idle server")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=packed_directory().parent) as directory:
        measure(arguments, Path(directory))


def measure(arguments: argparse.Namespace, cache: Path) -> None:
    model, chosen = peers.chosen(arguments, "--cache-dir", str(cache))
    servers = {server.name: server for server in chosen}
    start = Results("start to first token, s", list(servers), "lower")
    memory = Results("resident memory less the model's file, MB", list(servers), "lower")
    idle = Results("CPU while idle, % of one core", list(servers), "", 2)
    for server in chosen:
        life(server, arguments.logs, 0.1)
    for repeat in range(arguments.repeats):
        shutil.rmtree(packed_directory(cache), ignore_errors=True)
        first_s, _, _ = life(servers[OURS], arguments.logs, 0.1)
        for name in servers:
            start.add(f"{model.name}, the first time", name, first_s if name == OURS else None)
        for name in turns(list(servers), repeat):
            seconds, resident, percent = life(servers[name], arguments.logs, arguments.idle)
            start.add(model.name, name, seconds)
            memory.add(model.name, name, (resident - model.stat().st_size) / 1e6)
            idle.add(model.name, name, percent)
    publish([start, memory, idle], arguments.json, model=model.name)


if __name__ == "__main__":
    main()
