"""How does a server do with little CPU: under a cgroup's quota of 2, 1 and 0.5 CPUs, and held to one core?

    python benchmarks/quota.py --llama ~/peers/llama [--json quota.json]
    python benchmarks/quota.py --llama ~/peers/llama --threads 1 --only "1 CPU"

All servers of a row share one cgroup, or core; only one of them computes at a time, and they take turns. This
process, the client, is outside of it. A prompt of about 512 tokens, then a stream of 64; threads are those
that had at least a fifth of the busiest one's CPU time during the stream. Servers choose their number, or
are told it as in the second line, which helps those that look at cores only. Ours does not guess ahead here.
Needs the right to make a cgroup, of version 1 or 2.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import peers
from cpu_time import thread_seconds
from english import passage
from peers import Server
from results import Results, publish, save, turns

VERSION1, VERSION2 = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
PERIOD_US = 100_000
PROMPT_WORDS, STREAM_WORDS, STREAM_TOKENS = 390, 60, 64
QUOTAS = {"no limit": None, "2 CPUs": 2.0, "1 CPU": 1.0, "0.5 CPUs": 0.5}
ONE_CORE = "one core"


@contextlib.contextmanager
def cpu_group(cpus: float) -> Iterator[Path]:
    """The `cgroup.procs` of a new group with this quota. Raises: SystemExit where none can be made."""
    first = (VERSION1 / "cpu.cfs_period_us").exists()
    group = (VERSION1 if first else VERSION2) / f"llm-serving-quota-{os.getpid()}"
    quota_us = round(cpus * PERIOD_US)
    try:
        if not first:
            (VERSION2 / "cgroup.subtree_control").write_text("+cpu")
        group.mkdir()
    except OSError as error:
        raise SystemExit(f"no cgroup with a quota can be made here: {error}") from None
    try:
        if first:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        else:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        yield group / "cgroup.procs"
    finally:
        group.rmdir()  # the servers have ended by now


@contextlib.contextmanager
def limited(limit: str) -> Iterator[list[str]]:
    """What a command begins with to run under this limit."""
    if limit == ONE_CORE:
        yield ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    elif cpus := QUOTAS[limit]:
        with cpu_group(cpus) as processes:
            yield ["sh", "-c", f'echo $$ > {processes} && exec "$@"', "sh"]
    else:
        yield []


def measure(server: Server, pid: int, seed: int) -> list[float]:
    """A value for each of the tables; the server has not seen the texts."""
    prompt = peers.chat_body(server, passage(PROMPT_WORDS, 2 * seed), 1)
    [long] = asyncio.run(peers.ask(server, prompt))
    body = peers.chat_body(server, passage(STREAM_WORDS, 2 * seed + 1), STREAM_TOKENS)
    before = thread_seconds(pid)
    [stream] = asyncio.run(peers.ask(server, body))
    used = [seconds - before.get(thread, 0.0) for thread, seconds in thread_seconds(pid).items()]
    return [
        (long.prompt_tokens - long.cached_tokens) / (long.first_s - long.start_s),
        (stream.output_tokens - 1) / (stream.last_s - stream.first_s),
        1e3 * max(stream.gaps_s),
        sum(seconds >= max(used) / 5 for seconds in used),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_arguments(parser)
    parser.set_defaults(threads=0, slots=1)
    parser.add_argument("--only", default="", help="part of a limit's name")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model, servers = peers.chosen(arguments, "--speculation", "off")
    chosen = {server.name: server for server in servers}
    names = list(chosen)
    tables = [
        Results("prompt tok/s", names),
        Results("output tok/s after the first token", names),
        Results("longest silence between tokens, ms", names, "lower"),
        Results("threads that compute", names, "", 0),
    ]
    for limit in (name for name in (*QUOTAS, ONE_CORE) if arguments.only in name):
        with limited(limit) as prefix, contextlib.ExitStack() as stack:
            pids = {}
            for name, server in chosen.items():
                running = peers.running(replace(server, command=[*prefix, *server.command]), arguments.logs)
                pids[name] = stack.enter_context(running).pid
                asyncio.run(peers.ask(server, peers.chat_body(server, "Hello!", 4)))
            for repeat in range(arguments.repeats):
                for name in turns(names, repeat):
                    values = measure(chosen[name], pids[name], repeat)
                    for table, value in zip(tables, values, strict=True):
                        table.add(limit, name, value)
        save(tables, arguments.json, model=model.name)
    publish(tables, arguments.json, model=model.name)


if __name__ == "__main__":
    main()
