"""`llm-serving conformance URL`: does a server do what OpenAI's API says."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from llm_serving.cli.addresses import api_base
from llm_serving.cli.conformance.check import Verdict
from llm_serving.cli.conformance.report import Printer, print_score, report_of
from llm_serving.cli.conformance.run import GROUPS, find_models, run_checks
from llm_serving.cli.conformance.server import Server
from llm_serving.cli.terminal import harmless, print_json
from llm_serving.config import Settings

_STDOUT = Path("-")


@click.command("conformance")
@click.argument("url")
@click.option("--api-key", help="Key to send.  [the first of LLM_SERVING_API_KEY]")
@click.option("--model", default="", help="Model that chats.  [the first listed that answers]")
@click.option("--embedding-model", default="", help="Model that embeds.  [the first listed that answers]")
@click.option("--only", multiple=True, type=click.Choice(list(GROUPS)), help="Only this group; repeatable.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Write everything as JSON, too; - is stdout, and nothing else is printed.",
)
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=60.0, help="Seconds for one check.  [60]"
)
@click.option(
    "--total", type=click.FloatRange(0, min_open=True), default=900.0, help="Seconds for all.  [900]"
)
def command(
    url: str,
    api_key: str | None,
    model: str,
    embedding_model: str,
    only: tuple[str, ...],
    json_path: Path | None,
    timeout: float,
    total: float,
) -> int:
    """Check a server that claims OpenAI's API, whoever made it, and print a score.

    URL is its address, with or without /v1: http://127.0.0.1:8001 (this server, llama.cpp's: 8080, vLLM:
    8000, Ollama: 11434). Nothing is changed there; it is asked some hundred short questions, wrong ones,
    and two that are far too long.

    \b
    passed   as expected
    failed   not; what was expected and why, what was sent, what was seen
    skipped  no such route, a thing that the server says it has not,
             or a model that gave nothing to look at
    info     told, and not part of the score

    \b
    Groups for --only:
    basics       lists of models, health, one whole answer
    stream       chunks, finish reasons, usage, characters, stop strings
    limits       max_tokens, n, stop, logprobs, logit_bias, seed
    errors       wrong requests are a 400 with OpenAI's error, never a 500
    structured   JSON by a schema, functions
    completions, responses, embeddings
                 these routes, where they are
    auth         wrong keys; with --api-key
    robustness   clients that leave, sixteen at once, a slow one

    Ends with 0 if all passed, 1 if something failed, 2 if nothing could be asked.
    """
    server = Server(api_base(url), api_key or next(iter(Settings().api_key), None), model, embedding_model)
    is_quiet = json_path == _STDOUT
    groups = [name for name in GROUPS if name in (only or GROUPS)]
    report = asyncio.run(_judge(server, groups, timeout, total, is_quiet))
    if json_path is not None and not is_quiet:
        json_path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if is_quiet:
        print_json(report)
    else:
        print_score(report)
    if not report["passed"] + report["failed"]:
        return 2
    return 1 if report["failed"] else 0


async def _judge(
    server: Server, groups: Sequence[str], timeout_s: float, total_s: float, is_quiet: bool
) -> dict[str, Any]:
    end_s = time.monotonic() + total_s
    try:
        await find_models(server, timeout_s, end_s)
        if not is_quiet:
            names = server.model or "none", server.embedding_model or "none"
            click.echo(harmless(f"{server.base}; model: {names[0]}; embedding model: {names[1]}"))
        verdicts = await run_checks(server, groups, timeout_s, end_s, _ignore if is_quiet else Printer())
        return report_of(server, verdicts)
    finally:
        await server.close()


def _ignore(verdict: Verdict) -> None:
    """Nothing is shown."""
