"""`llm-serving chat`: a conversation in the terminal; with text on stdin, one question and its answer."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Coroutine
from contextlib import aclosing
from typing import Any

import click

from llm_serving.cli.chat_session import ChatSession, LocalSession, ServerSession, Turns
from llm_serving.cli.settings_options import read_settings, settings_options
from llm_serving.cli.terminal import fetch_progress, harmless
from llm_serving.config import Settings, env_name, flag_name
from llm_serving.errors import ServingError

_LOCAL = (
    "engine",
    "quantization",
    "kv_cache",
    "threads",
    "context_length",
    "memory",
    "cache_dir",
    "packed_cache",
)
_SHARED = ("temperature", "max_new_tokens")
_HELP = (
    "/reset starts anew, /system TEXT sets the system message, /quit or Ctrl-D ends; Ctrl-C stops an answer."
)


@click.command("chat")
@click.argument("model", required=False)
@click.option("--url", help="Talk to this server, such as http://127.0.0.1:8001.  [a model in this process]")
@click.option("--api-key", help="Key for --url.  [the first of LLM_SERVING_API_KEY]")
@click.option("--system", help="System message.")
@settings_options(without=set(Settings.model_fields) - set(_LOCAL) - set(_SHARED))
def command(
    model: str | None, url: str | None, api_key: str | None, system: str | None, **flags: Any
) -> None:
    """Chat with a model in this process, or with a server.

    Reads one question from stdin and prints the bare answer if stdin is not a terminal.
    """
    if url is None:
        session: ChatSession | None = None
        settings = read_settings(flags, model_name=model)
        if not settings.model_name:
            raise click.UsageError(f"Name a model: {env_name('model_name')} says that none chats.")
    else:
        for name in _LOCAL:
            if flags[name] is not None:
                raise click.UsageError(f"{flag_name(name)} is the server's affair; leave it out with --url.")
        settings = read_settings(flags)
        asked = {name for name in _SHARED if flags[name] is not None}
        session = ServerSession(
            url,
            api_key or next(iter(settings.api_key), None),
            model,
            settings.temperature if "temperature" in asked else None,
            settings.max_new_tokens if "max_new_tokens" in asked else None,
        )
    loop = asyncio.new_event_loop()
    try:
        if session is None:
            with fetch_progress(settings.model_name) as on_progress:
                session = LocalSession(settings, on_progress)
                name = loop.run_until_complete(session.open())
        else:
            name = loop.run_until_complete(session.open())
        try:
            conversation = _Conversation(loop, session, system)
            if sys.stdin.isatty():
                conversation.talk(name)
            else:
                conversation.answer_stdin()
        finally:
            loop.run_until_complete(session.close())
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


class _Conversation:
    """The turns so far, and the terminal they happen in."""

    def __init__(self, loop: asyncio.AbstractEventLoop, session: ChatSession, system: str | None) -> None:
        self._loop = loop
        self._session = session
        self._system = system
        self._turns: Turns = []
        self._pieces: list[str] = []
        self._first_s = 0.0
        self._has_thought = False

    def answer_stdin(self) -> None:
        """All of stdin is the question; nothing but the answer goes to stdout."""
        question = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
        if not question:
            raise ServingError("There is no question: stdin is empty.")
        self._turns.append({"role": "user", "content": question})
        if not self._run(self._say()):
            raise KeyboardInterrupt
        click.echo()

    def talk(self, name: str) -> None:
        """Read and answer until the user leaves."""
        import readline  # noqa: F401  line editing and history for input()

        click.secho(f"{name}. /help for commands, Ctrl-D to quit.", dim=True)
        was_interrupted = False
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                if was_interrupted:
                    return
                was_interrupted = True
                click.secho("Ctrl-C again or Ctrl-D quits.", dim=True)
                continue
            was_interrupted = False
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                self._command(line)
            elif line:
                was_interrupted = not self._ask(line)

    def _command(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "/reset":
            self._turns.clear()
            click.secho("A new conversation.", dim=True)
        elif word == "/system":
            self._system = rest.strip() or None
            self._turns.clear()
            click.secho(f"System message: {self._system or 'none'}. A new conversation.", dim=True)
        else:
            click.secho(_HELP if word == "/help" else f"Unknown command {word}. {_HELP}", dim=True)

    def _ask(self, question: str) -> bool:
        """One exchange; False if it was interrupted. What was said so far stays in the conversation."""
        self._turns.append({"role": "user", "content": question})
        start_s = time.perf_counter()
        finished = True
        try:
            finished = self._run(self._say())
        except ServingError as error:
            click.secho(f"\nError: {' '.join(str(error).split())}", fg="red", err=True)
        end_s = time.perf_counter()
        answer = "".join(self._pieces)
        if answer:
            self._turns.append({"role": "assistant", "content": answer})
        else:
            self._turns.pop()
        click.echo()
        if answer and finished:
            click.secho(self._rates(start_s, end_s), dim=True)
        elif not finished:
            click.secho("(stopped)", dim=True)
        return finished

    def _rates(self, start_s: float, end_s: float) -> str:
        tokens, decode_s = self._session.usage.output_tokens, end_s - self._first_s
        waited = f"first text after {self._first_s - start_s:.2f} s"
        if num_left_out := self._session.usage.num_left_out:
            waited += f", without the {num_left_out} oldest messages (/reset begins anew)"
        if tokens < 2 or decode_s <= 0:
            return waited
        return f"{tokens} tokens, {(tokens - 1) / decode_s:.1f} tok/s, {waited}"

    async def _say(self) -> None:
        self._pieces = []
        self._first_s, self._has_thought = 0.0, False
        turns = [{"role": "system", "content": self._system}, *self._turns] if self._system else self._turns
        async with aclosing(self._session.answer(turns)) as answer:
            async for thoughts, text in answer:
                self._first_s = self._first_s or time.perf_counter()
                if sys.stdout.isatty():
                    self._show(harmless(thoughts), harmless(text))
                elif text:
                    sys.stdout.write(text)
                    sys.stdout.flush()
                self._pieces += [text] if text else []

    def _show(self, thoughts: str, text: str) -> None:
        """On a terminal: thoughts dim, and a blank line between them and the answer."""
        if thoughts:
            self._has_thought = True
            click.secho(thoughts, dim=True, nl=False)
        if text and self._has_thought and not self._pieces:
            click.echo("\n")
        click.echo(text, nl=False)

    def _run(self, answer: Coroutine[Any, Any, None]) -> bool:
        """Run to the end, or until Ctrl-C: then False."""
        task = self._loop.create_task(answer)
        self._loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            return False
        finally:
            self._loop.remove_signal_handler(signal.SIGINT)
        return True
