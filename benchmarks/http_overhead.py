"""What do HTTP and its clients take off the engine's own rate, and whose CPU time is it?

    python benchmarks/http_overhead.py [--clients 16] [--repeats 5] [--json overhead.json]

The engine alone is `AsyncEngine`, with its scheduler and thread, in a process of its own: as many tasks as
there are clients submit the same prompts as token ids and take the events. Over HTTP `llm-serving serve`
answers as many streaming clients, all in this process (`lean_client.py`), which only look for an answer's
end. The two take turns, with prompts that neither has seen. CPU time is by thread: the event loop's, and all
others, which are the engine's and its kernel workers'; these spin a little for each other, which is in it.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import peers
import uvloop
from cpu_time import thread_seconds
from english import passage
from lean_client import EventStream, at_once, post
from peers import Server
from results import Results, publish, save, turns

from llm_serving.chat.messages import Message
from llm_serving.config import Settings
from llm_serving.engine.protocol import Engine
from llm_serving.engine.request import GenerateRequest, SamplingParams
from llm_serving.models import resolve_model
from llm_serving.service.loader import load_chat_model
from llm_serving.service.memory import set_aside_what_stays
from llm_serving.service.rendering import Conversation, prompt_ids

ALONE, HTTP = "the engine alone", "over HTTP"


async def generate(engine: Engine, prompts: Sequence[list[int]], clients: int, max_tokens: int) -> float:
    """Seconds until `clients` tasks, each of which waits for its answer, have had all of them."""
    waiting = iter(enumerate(prompts))

    async def one() -> None:
        for i, prompt in waiting:  # shared: each is taken once
            sampling = SamplingParams(max_tokens, temperature=0.0)
            async with await engine.submit(GenerateRequest(str(i), prompt, sampling)) as stream:
                async for _ in stream:
                    pass

    started_s = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    return time.perf_counter() - started_s


def engine_process(pipe: Pipe, model: Path, threads: int) -> None:
    """Takes (texts, clients, max_tokens) from the pipe and sends the seconds they took, until None."""
    settings = Settings(model_name=str(model), threads=threads)
    chat = load_chat_model(settings)
    set_aside_what_stays()  # as the server does

    async def answer() -> None:
        while work := await asyncio.to_thread(pipe.recv):
            texts, clients, max_tokens = work
            prompts = [prompt_ids(chat, Conversation([Message(role="user", content=text)])) for text in texts]
            pipe.send(await generate(chat.engine, prompts, clients, max_tokens))
        await chat.engine.close()

    uvloop.run(answer())


class EngineAlone:
    def __init__(self, model: Path, threads: int) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pipe, pipe = spawn.Pipe()
        self._process = spawn.Process(target=engine_process, args=(pipe, model, threads), daemon=True)
        self._process.start()
        pipe.close()
        assert self._process.pid
        self.pid = self._process.pid

    def seconds(self, texts: list[str], clients: int, max_tokens: int) -> float:
        self._pipe.send((texts, clients, max_tokens))
        taken_s: float = self._pipe.recv()
        return taken_s

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(20)


def over_http(server: Server, texts: list[str], clients: int, max_tokens: int) -> float:
    """The seconds. Raises: SystemExit when an answer is shorter than was asked for."""
    requests = [post("/v1/chat/completions", peers.chat_body(server, text, max_tokens)) for text in texts]
    taken_s, answers = uvloop.run(at_once(server.port, requests, clients, EventStream))
    for answer in answers:
        usage = re.search(rb'"completion_tokens":(\d+)', answer)
        if not usage or int(usage[1]) != max_tokens:
            raise SystemExit(f"an answer is not complete: {answer[-400:].decode('utf-8', 'replace')}")
    return taken_s


def texts_of(count: int, words: int, seed: int) -> list[str]:
    everything = passage(count * words, seed).split()
    return [" ".join(everything[i * words : (i + 1) * words]) for i in range(count)]


class Race:
    """The two, their tables, and one repeat of both."""

    def __init__(self, alone: EngineAlone, server: Server, pid: int, clients: int, max_tokens: int) -> None:
        self._alone, self._server = alone, server
        self._pids = {ALONE: alone.pid, HTTP: pid}
        self._clients, self._max_tokens = clients, max_tokens
        names = [ALONE, HTTP]
        self.rate = Results("output tok/s", names)
        self.kept = Results("kept of the engine's own rate, %", [HTTP], "")
        self.cpu = Results("CPU time for a token of output, µs", names, "")
        self.share = Results("CPU time", names, "")

    @property
    def tables(self) -> list[Results]:
        return [self.rate, self.kept, self.cpu, self.share]

    def seconds(self, name: str, texts: list[str]) -> float:
        if name == ALONE:
            return self._alone.seconds(texts, self._clients, self._max_tokens)
        return over_http(self._server, texts, self._clients, self._max_tokens)

    def repeat(self, number: int, texts: list[str]) -> None:
        row, tokens, rates = f"{self._clients} clients", len(texts) * self._max_tokens, {}
        for name in turns(self.rate.engines, number):
            pid = self._pids[name]
            before, own_s = thread_seconds(pid), time.process_time()
            taken_s = self.seconds(name, texts)
            own_s = time.process_time() - own_s
            used = {thread: s - before.get(thread, 0.0) for thread, s in thread_seconds(pid).items()}
            event_loop_s = used.pop(pid)
            engine_s = sum(used.values())
            rates[name] = tokens / taken_s
            self.rate.add(row, name, rates[name])
            self.cpu.add("engine thread and kernel workers", name, engine_s / tokens * 1e6)
            self.cpu.add("event loop", name, event_loop_s / tokens * 1e6)
            self.cpu.add("clients", name, own_s / tokens * 1e6 if name == HTTP else None)
            beside_s = event_loop_s + (own_s if name == HTTP else 0.0)
            busy = (engine_s + beside_s) / taken_s / len(os.sched_getaffinity(0))
            self.share.add("event loop and clients, % of the engine's", name, 100 * beside_s / engine_s)
            self.share.add("of all these, % of the cores", name, 100 * busy)
        self.kept.add(row, HTTP, 100 * rates[HTTP] / rates[ALONE])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_own_arguments(parser)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64, help="in each run")
    parser.add_argument("--words", type=int, default=80, help="of a prompt; 80 are about 128 tokens")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    arguments.logs.mkdir(exist_ok=True)
    model, clients = Path(resolve_model(arguments.model)), arguments.clients
    server = peers.ours(model, arguments.threads, 8101, "--embedding-model", "")
    alone = EngineAlone(model, arguments.threads)
    with peers.running(server, arguments.logs) as process:
        race = Race(alone, server, process.pid, clients, arguments.max_tokens)
        warm = texts_of(clients, arguments.words, 10_000)
        for name in (ALONE, HTTP):
            race.seconds(name, warm)
        for number in range(arguments.repeats):
            race.repeat(number, texts_of(arguments.requests, arguments.words, number))
            save(race.tables, arguments.json, model=model.name)
    alone.close()
    publish(race.tables, arguments.json, model=model.name)


if __name__ == "__main__":
    main()
