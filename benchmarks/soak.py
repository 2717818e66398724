"""Clients of all kinds for some minutes: what becomes of the server's memory, and which answers are odd.

    python benchmarks/soak.py --minutes 12 --clients 12 -- --memory 400MiB

Each client does one thing after another, at random: chats whole and streamed, half of the streams left in
the middle, forms, embeddings, reranking, responses that are kept, continued, deleted and cancelled, batches,
bodies that are none, and requests whose client goes away. What follows `--` are flags of `llm-serving serve`.
An answer of 500 and above, an error in a stream or of the connection is odd; a 429 is not. Ends with 1 if
there was any.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

PORT = 18777
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WORDS = [
    "the",
    "sea",
    "and",
    "a",
    "ship",
    "went",
    "over",
    "old",
    "stones",
    "while",
    "rain",
    "fell",
    "on",
    "green",
    "hills",
    "near",
    "every",
    "quiet",
    "town",
]
NO_BODIES = [b"{", b"[]", b'{"messages": 5}', b'{"input": {}}', bytes(range(200, 250))]


class Client:
    """One of many; all write into the same `counts` and `odd`."""

    def __init__(self, http: httpx.AsyncClient, seed: int, counts: collections.Counter[str], odd: list[str]):
        self.http, self.counts, self.odd = http, counts, odd
        self.rng = random.Random(seed)
        self.kept = ""  # a response to go on with

    def words(self, count: int) -> str:
        return " ".join(self.rng.choices(WORDS, k=count))

    def messages(self) -> list[dict[str, str]]:
        system = {"role": "system", "content": "You help."}
        return [system, {"role": "user", "content": self.words(self.rng.choice([3, 20, 150, 600]))}]

    def note(self, what: str, answer: httpx.Response) -> None:
        self.counts[f"{what}: {answer.status_code}"] += 1
        if answer.status_code >= 500:
            self.odd.append(f"{what}: {answer.status_code} {answer.text[:200]}")

    async def post(self, what: str, path: str, body: Any) -> Any:
        answer = await self.http.post(path, json=body)
        self.note(what, answer)
        return answer.json() if answer.status_code == 200 else None

    async def chat(self) -> None:
        sampling = {"temperature": self.rng.choice([0, 1]), "n": self.rng.choice([1, 1, 2])}
        body = {"messages": self.messages(), "max_tokens": self.rng.randint(1, 60), **sampling}
        await self.post("chat", "/v1/chat/completions", {**body, "logprobs": self.rng.random() < 0.3})

    async def form(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
        body = {"messages": self.messages(), "max_tokens": 60, "response_format": form}
        await self.post("form", "/v1/chat/completions", body)

    async def stream(self) -> None:
        messages, most = self.messages(), self.rng.randint(16, 120)
        path, body = self.rng.choice(
            [
                ("/v1/chat/completions", {"messages": messages, "max_tokens": most}),
                ("/v1/messages", {"messages": messages[1:], "max_tokens": most}),
                ("/v1/responses", {"input": messages, "max_output_tokens": most}),
            ]
        )
        lines_left = self.rng.choice([0, self.rng.randint(1, 40)])  # 0: to the end
        async with self.http.stream("POST", path, json={**body, "stream": True}) as answer:
            if answer.status_code != 200:
                await answer.aread()
                self.note("stream", answer)
                return
            async for line in answer.aiter_lines():
                if line.startswith("event: error"):
                    self.odd.append(f"stream of {path}: {line}")
                lines_left -= 1
                if lines_left == 0:
                    self.counts["stream: left"] += 1
                    return
        self.counts["stream: 200"] += 1

    async def embed(self) -> None:
        texts = [self.words(self.rng.randint(1, 120)) for _ in range(self.rng.choice([1, 1, 4, 32]))]
        await self.post("embed", "/v1/embeddings", {"input": texts, "encoding_format": "base64"})

    async def rerank(self) -> None:
        documents = [self.words(30) for _ in range(8)]
        await self.post("rerank", "/rerank", {"query": self.words(5), "documents": documents})

    async def respond(self) -> None:
        body: dict[str, Any] = {"input": self.words(10), "max_output_tokens": 20}
        if self.kept:
            body |= {"previous_response_id": self.kept, "truncation": "auto"}
        answer = await self.post("response", "/v1/responses", body)
        self.kept = answer["id"] if answer and self.rng.random() < 0.7 else ""
        if answer and not self.kept:
            self.note("deletion", await self.http.delete(f"/v1/responses/{answer['id']}"))

    async def background(self) -> None:
        body = {"input": self.words(10), "max_output_tokens": 200, "background": True}
        if answer := await self.post("background", "/v1/responses", body):
            await asyncio.sleep(self.rng.random())
            await self.post("cancel", f"/v1/responses/{answer['id']}/cancel", {})

    async def batch(self) -> None:
        """Not waited for: batches stand behind everybody."""
        body = {"messages": self.messages()[1:], "max_tokens": 5}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
        files = {"file": ("a.jsonl", json.dumps(line))}
        answer = await self.http.post("/v1/files", files=files, data={"purpose": "batch"})
        self.note("file", answer)
        asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        if answer.status_code == 200:
            await self.post("batch", "/v1/batches", {**asked, "input_file_id": answer.json()["id"]})

    async def nonsense(self) -> None:
        path = self.rng.choice(["/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/api/chat"])
        headers = {"content-type": "application/json"}
        answer = await self.http.post(path, content=self.rng.choice(NO_BODIES), headers=headers)
        self.note("nonsense", answer)

    async def vanish(self) -> None:
        body = {"messages": self.messages(), "max_tokens": 400}
        try:
            await self.http.post("/v1/chat/completions", json=body, timeout=0.6 * self.rng.random())
        except httpx.TimeoutException:
            self.counts["vanished"] += 1

    async def work(self, end_s: float) -> None:
        often: list[tuple[Callable[[], Awaitable[None]], float]] = [
            *[(self.stream, 8), (self.chat, 5), (self.embed, 4), (self.respond, 3), (self.vanish, 3)],
            *[(self.form, 2), (self.rerank, 2), (self.nonsense, 2), (self.background, 1), (self.batch, 0.1)],
        ]
        doings, weights = zip(*often, strict=True)
        while time.monotonic() < end_s:
            try:
                await self.rng.choices(doings, weights)[0]()
            except httpx.HTTPError as error:
                self.odd.append(repr(error)[:200])


def looks(pid: int, done: int) -> str:
    """How large the process is now."""
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
    )
    descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    anonymous = int(status["RssAnon"].split()[0]) // 1024
    return f"{anonymous} MiB, {status['Threads'].strip()} threads, {descriptors} descriptors, {done} done"


async def soak(minutes: float, num_clients: int, pid: int) -> list[str]:
    counts: collections.Counter[str] = collections.Counter()
    odd: list[str] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{PORT}", timeout=120, limits=limits) as http:
        while not await is_ready(http):
            await asyncio.sleep(0.1)
        start_s = time.monotonic()
        end_s = start_s + 60 * minutes

        async def watch() -> None:
            while time.monotonic() < end_s:
                print(f"{time.monotonic() - start_s:5.0f} s  {looks(pid, counts.total())}", flush=True)
                await asyncio.sleep(min(30, 6 * minutes))

        clients = [Client(http, seed, counts, odd) for seed in range(num_clients)]
        await asyncio.gather(watch(), *(client.work(end_s) for client in clients))
        await asyncio.sleep(3)
        print(f"  end    {looks(pid, counts.total())}")
    print("\n".join(f"{count:6} {what}" for what, count in sorted(counts.items())))
    return odd


async def is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/ready")).status_code == 200
    except httpx.HTTPError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("flags", nargs="*", help="of `llm-serving serve`")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "llm_serving.cli", "serve", "--port", str(PORT), *arguments.flags]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        odd = asyncio.run(soak(arguments.minutes, arguments.clients, server.pid))
    finally:
        server.terminate()
        server.wait()
    print(f"{len(odd)} odd answers", *odd[:20], sep="\n")
    raise SystemExit(bool(odd))


if __name__ == "__main__":
    main()
