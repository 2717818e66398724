"""How does a server behave when it is disturbed: by a long prompt, and by busy neighbours on its cores?

    python benchmarks/disturbed.py --llama ~/peers/llama --xllamacpp ~/peers/xlla

A long prompt: one client reads a stream; after a while a prompt of 2 k tokens arrives. The longest silence
in the stream from then until that prompt is answered, against the usual one before. Neighbours: 8 clients,
alone and with one process per core that only counts; the rate that is kept, and the CPU time that the
server still got. Where the rate falls no more than the CPU time, their quotient is 1 or more. Ours does not
guess ahead here: a stream that repeats itself would have ended before the prompt comes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import peers
from chat_http import Load, run_load
from cpu_time import cpu_seconds
from english import passage
from peers import Server
from results import Results, publish, turns

from llm_serving.cli.bench_http import ChatClient, Outcome, parse_target

LONG_WORDS = 1600  # about 2 k tokens
STREAM_TOKENS, STREAM_ALONE_S = 1500, 1.0  # so that the stream outlasts the prompt
NEIGHBOURS_LOAD = Load("8 clients", 16, 128, 64, ("output",), 8)


async def interrupted(server: Server, seed: int) -> tuple[Outcome, Outcome]:
    """(the stream, the long prompt that came in while it ran)."""
    client = ChatClient(parse_target(server.url, None))
    try:
        body = peers.chat_body(server, passage(100, 2 * seed), STREAM_TOKENS)
        long_body = peers.chat_body(
            server, passage(LONG_WORDS, 2 * seed + 1), 1
        )  # now: it holds this loop up
        stream = asyncio.create_task(client.complete(body, time.perf_counter(), 300))
        await asyncio.sleep(STREAM_ALONE_S)
        long = await client.complete(long_body, time.perf_counter(), 300)
        return await stream, long
    finally:
        await client.close()


def silences(stream: Outcome, long: Outcome) -> tuple[float, float] | None:
    """(usual silence before, longest silence during), seconds. None where the machine was too slow to tell.

    Raises: SystemExit when a request failed.
    """
    if stream.error or long.error:
        raise SystemExit(f"failed: {stream.error or long.error} {stream.detail or long.detail}")
    times = list(itertools.accumulate(stream.gaps_s, initial=stream.first_s))[1:]
    timed = list(zip(times, stream.gaps_s, strict=True))
    before = [gap for end, gap in timed if end < long.start_s]
    during = [gap for end, gap in timed if end >= long.start_s and end - gap <= long.end_s]
    if not before or not during:
        print(f"# {len(before)} gaps before the prompt, {len(during)} during it", file=sys.stderr)
        return None
    return statistics.median(before), max(during)


@contextlib.contextmanager
def neighbours() -> Iterator[None]:
    """One process for every core of ours, held to it, that counts until the end."""
    cores = sorted(os.sched_getaffinity(0))
    count = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", count, str(core)]) for core in cores]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def loaded(server: Server, pid: int, seed: int) -> tuple[float, float]:
    """(output tokens a second, CPU seconds a second of the server)."""
    before, started_s = cpu_seconds(pid), time.perf_counter()
    summary = run_load(server, NEIGHBOURS_LOAD, seed)
    share = (cpu_seconds(pid) - before) / (time.perf_counter() - started_s)
    return summary["output_tok_s"], share


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    gc.freeze()  # this process' own collections would count as silences of the servers
    model, chosen = peers.chosen(arguments, "--speculation", "off")
    servers = {server.name: server for server in chosen}
    names = list(servers)
    silence = Results("silence between tokens", names, "lower")
    times = Results("silence during a 2 k prompt", names, "")
    rate = Results("8 clients, output tok/s", names)
    kept = Results("kept with one busy neighbour a core, %", names, "")
    with contextlib.ExitStack() as stack:
        pids = {s.name: stack.enter_context(peers.running(s, arguments.logs)).pid for s in chosen}
        for repeat in range(arguments.repeats):
            for name in turns(names, repeat):
                gaps = silences(*asyncio.run(interrupted(servers[name], repeat)))
                usual, longest = gaps or (None, None)
                silence.add("usual, ms", name, usual and usual * 1e3)
                silence.add("longest during a 2 k prompt, ms", name, longest and longest * 1e3)
                times.add("longest / usual", name, longest and usual and longest / usual)
            for name in turns(names, repeat):
                alone, share_alone = loaded(servers[name], pids[name], 2 * repeat)
                with neighbours():
                    crowded, share_crowded = loaded(servers[name], pids[name], 2 * repeat + 1)
                rate.add("alone", name, alone)
                rate.add("with neighbours", name, crowded)
                kept.add("rate", name, 100 * crowded / alone)
                kept.add("CPU time", name, 100 * share_crowded / share_alone)
                kept.add("rate by CPU time", name, 100 * crowded / alone * share_alone / share_crowded)
    publish([silence, times, rate, kept], arguments.json, model=model.name)


if __name__ == "__main__":
    main()
