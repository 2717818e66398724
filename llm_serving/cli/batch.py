"""`llm-serving batch`: all requests of a file, by a model in this process or by a server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import orjson

from llm_serving.cli.addresses import api_base
from llm_serving.cli.settings_options import read_settings, settings_options
from llm_serving.cli.terminal import count_progress, fetch_progress
from llm_serving.config import Settings, flag_name
from llm_serving.errors import ServingError

if TYPE_CHECKING:
    from llm_serving.service.batch_answers import Ask, Asked
    from llm_serving.service.batch_lines import BatchLine, LineResult

_OF_SERVERS = {
    *("host", "port", "playground", "heartbeat_s", "drain_s", "log_level", "otlp_endpoint", "step_ms"),
    *("api_key", "api_key_file", "strict_model_names", "max_body_bytes", "max_queue", "embedding_queue"),
    *("files_dir", "files_bytes"),
}
_OF_ENCODERS = ("/v1/embeddings", "/v1/rerank", "/v1/score", "/v1/classify")


@click.command("batch")
@click.argument("requests", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("results", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option("--url", help="Ask this server, such as http://127.0.0.1:8001.  [a model in this process]")
@click.option("--api-key", help="Key for --url.  [the first of LLM_SERVING_API_KEY]")
@settings_options(without=_OF_SERVERS)
def command(requests: Path, results: Path, url: str | None, api_key: str | None, **flags: Any) -> int:
    """Answer every line of REQUESTS and write the answers to RESULTS, in the order in which they come.

    Both are JSON Lines as OpenAI's Batch API has them; a request is a line such as
    {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}.
    What RESULTS has an answer to already is not asked again: after Ctrl-C the same command goes on.
    """
    from llm_serving.service.batch_lines import answered_ids, check_lines

    count, problems = check_lines(requests)
    if problems:
        where = f"line {problems[0].line}: " if problems[0].line else ""
        more = f" ({len(problems) - 1} further lines are wrong, too.)" if problems[1:] else ""
        raise ServingError(f"{requests}: {where}{problems[0].message}{more}")
    answered = answered_ids(results)
    if url:
        for name, value in flags.items():
            if name != "max_concurrency" and value not in (None, ()):
                raise click.UsageError(f"{flag_name(name)} is the server's affair; leave it out with --url.")
    settings = read_settings(flags)
    try:
        with results.open("ab") as file:
            run = _Run(requests, file, answered)
            if len(answered) < count:
                with count_progress("Answering", count, len(answered)) as on_count:
                    asyncio.run(run.all(settings, url, api_key, on_count))
    except OSError as error:
        raise ServingError(f"{error.filename or results}: {error.strerror}.") from None
    click.echo(run.summary(count), err=True)
    return 1 if run.failed else 0


class _Run:
    """One run over a file; what it has come to."""

    def __init__(self, requests: Path, results: BinaryIO, answered: set[str]) -> None:
        self.failed = 0
        self._requests = requests
        self._results = results
        self._answered = answered
        self._done = self._output_tokens = 0
        self._seconds = 0.0

    async def all(self, settings: Settings, url: str | None, api_key: str | None, on_count: Any) -> None:
        """Raises: ServingError, if nobody can answer."""
        from llm_serving.service.batch_answers import answer_lines

        def keep(result: LineResult) -> None:
            self._results.write(result.to_line())
            self._results.flush()
            self._done += 1
            self.failed += not result.is_good
            self._output_tokens += _output_tokens(result)
            on_count(len(self._answered) + self._done)

        asking = _server(settings, url, api_key) if url else _here(settings, self._needs_encoder())
        async with asking as ask:
            start_s = time.perf_counter()
            places = asyncio.Semaphore(settings.max_concurrency)
            try:
                await answer_lines(self._lines(), ask, places, keep)
            finally:
                self._seconds = time.perf_counter() - start_s

    def summary(self, count: int) -> str:
        """One line."""
        former = f", {len(self._answered)} before" if self._answered else ""
        failed = f"; {self.failed} have errors" if self.failed else ""
        rate = self._output_tokens / self._seconds if self._seconds else 0.0
        speed = f" in {self._seconds:.1f} s, {rate:.0f} output tokens/s" if rate else ""
        return f"{self._done} of {count} requests answered{former}{speed}{failed}."

    def _lines(self) -> Iterator[BatchLine]:
        from llm_serving.service.batch_lines import lines_of, parse_line

        with self._requests.open("rb") as file:
            for number, raw in lines_of(file):
                line = parse_line(number, raw)
                if line.custom_id not in self._answered:
                    yield line

    def _needs_encoder(self) -> bool:
        return any(line.endpoint in _OF_ENCODERS for line in self._lines())


@contextlib.asynccontextmanager
async def _here(settings: Settings, needs_encoder: bool) -> AsyncIterator[Ask]:
    """A model in this process, behind the very routes of the server."""
    from llm_serving.api.app import create_app
    from llm_serving.api.inner import ask_app
    from llm_serving.api.lifespan import lifespan
    from llm_serving.service.naming import find_path

    if settings.engine != "fake" and settings.model_name:
        with fetch_progress(settings.model_name) as on_progress:
            find_path(settings.model_name, settings, on_progress)
    alone: dict[str, Any] = {"api_key": (), "api_key_file": None, "max_queue": 2 * settings.max_concurrency}
    if settings.model_name and not needs_encoder:
        alone |= {"embedding_model": "", "reranker_model": "", "classifier_model": ""}
    app = create_app(settings.model_copy(update=alone))
    async with lifespan(app):
        slot = app.state.services.registry.first
        await slot.settled()
        if slot.model is None:
            raise ServingError(f"The model '{slot.name}' cannot be loaded: {slot.reason}")

        async def ask(line: BatchLine) -> Asked:
            return await ask_app(app, line, "")

        yield ask


@contextlib.asynccontextmanager
async def _server(settings: Settings, url: str, api_key: str | None) -> AsyncIterator[Ask]:
    """Any server that has these routes."""
    import httpx

    from llm_serving.service.batch_answers import Asked

    key = api_key or next(iter(settings.api_key), None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=settings.max_concurrency)
    base = api_base(url).removesuffix("/v1")
    timeout = httpx.Timeout(None, connect=10.0)
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout) as client:

        async def ask(line: BatchLine) -> Asked:
            try:
                response = await client.post(base + line.endpoint, json=line.body)
            except httpx.HTTPError as error:
                reason = error or type(error).__name__
                raise ServingError(f"No answer from {base}: {reason}. Is a server running there?") from error
            retry_after = response.headers.get("retry-after", "1")
            return Asked(
                response.status_code,
                _as_json(response.content),
                response.headers.get("x-request-id", ""),
                float(retry_after) if retry_after.isdigit() else 1.0,
            )

        yield ask


def _as_json(body: bytes) -> bytes:
    """What others answer may be no JSON; then it is a text in it."""
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        return orjson.dumps(body.decode("utf-8", "replace"))
    return body


def _output_tokens(result: LineResult) -> int:
    try:
        usage = orjson.loads(result.body)["usage"]
        return int(usage.get("completion_tokens") or usage.get("output_tokens") or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0
