"""What does guessing ahead give: the same prompts with `--speculation auto` and `off`, one client.

    python benchmarks/speculation.py --repeats 5

Prompts that copy (repeat a text, correct one, continue a list) and prompts that do not (a question, a story).
Output tokens a second of a greedy answer of 200 tokens, the time to the first token left out. Prints
Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

import peers
from english import passage
from peers import Server
from results import OURS, Results, publish, turns

from llm_serving.models import resolve_model

TOKENS = 200
PLAIN = "without guessing"
PROMPTS = {
    "repeat a text": f"Repeat this text word for word:\n\n{passage(120, 1)}",
    "correct a text": f"Correct the spelling of this text and change nothing else:\n\n{passage(120, 2)}",
    "rename in code": "Rename `total` to `amount`, and give the whole code:\n\n"
    + "\n".join(f"def add_{i}(total: int) -> int:\n    return total + {i}\n" for i in range(8)),
    "a question": "Why is the sky blue?",
    "a story": "Tell me a story of a lighthouse and a storm.",
}


async def answer(server: Server, prompt: str) -> float:
    """Tokens a second after the first. Raises: SystemExit when the request failed."""
    [outcome] = await peers.ask(server, peers.chat_body(server, prompt, TOKENS))
    return (TOKENS - 1) / (outcome.end_s - outcome.first_s)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    peers.add_own_arguments(parser)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    model, threads = Path(resolve_model(arguments.model)), arguments.threads
    servers = {
        OURS: peers.ours(model, threads, 8101, "--embedding-model", ""),
        PLAIN: peers.ours(model, threads, 8103, "--embedding-model", "", "--speculation", "off"),
    }
    table = Results("output tok/s of one client after its first token", list(servers))
    with contextlib.ExitStack() as stack:
        for server in servers.values():
            stack.enter_context(peers.running(server, arguments.logs))
            asyncio.run(answer(server, "Hello!"))
        for repeat in range(arguments.repeats):
            for row, prompt in PROMPTS.items():
                for name in turns(list(servers), repeat):
                    table.add(row, name, asyncio.run(answer(servers[name], prompt)))
    publish([table], arguments.json, model=model.name)


if __name__ == "__main__":
    main()
