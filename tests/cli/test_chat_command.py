"""`chat`: streams, keeps the conversation, stops an answer and nothing else at Ctrl-C."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import PATIENCE_S
from tiny_openai_server import Reply, TinyServer

from llm_serving.cli.program import run

ROOT = Path(__file__).parents[2]


def say(monkeypatch: pytest.MonkeyPatch, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_piped_prints_the_answer_and_nothing_else(
    server: TinyServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = Reply(pieces=["Grüß", " dich", "\x1b[31m 😀"], thoughts=["Hm", "m."])
    say(monkeypatch, "two\nlines\n")
    options = ["--url", server.url, "--system", "be brief", "--temperature", "0", "--api-key", "sesame"]
    assert run(["chat", *options]) == 0
    assert capsys.readouterr() == ("Grüß dich\x1b[31m 😀\n", "")
    (request,) = server.requests
    assert request["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "two\nlines"},
    ]
    assert (request["model"], request["temperature"], "max_tokens" in request) == ("tiny-model", 0, False)
    assert all("sesame" in head for head in server.headers)


def test_in_process_needs_no_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, b"caf\xe9?")
    assert run(["chat", "--engine", "fake", "--system", "be brief", "--temperature", "0"]) == 0
    captured = capsys.readouterr()
    assert len(captured.out) > 20
    assert captured.err == ""


@pytest.mark.parametrize(
    ("reply", "shown", "message"),
    [
        (Reply(status=429), "", "The server refused (429): not today"),
        (Reply(fail_after=3), "Hello", "The server failed: the engine died"),
        (Reply(drop_after=3), "Hello", "The connection to"),
    ],
)
def test_a_failing_server_is_one_line(
    server: TinyServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reply: Reply,
    shown: str,
    message: str,
) -> None:
    server.reply = reply
    say(monkeypatch, "hi")
    assert run(["chat", "--url", server.url]) == 2
    captured = capsys.readouterr()
    assert captured.out == shown
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "http://127.0.0.1:9"], "Is a server running there?"),
        (["--url", "http://["], "No answer from"),
        (["--url", "http://127.0.0.1:9", "--threads", "2"], "--threads is the server's affair"),
        (["nonsense"], "'nonsense' does not exist"),
        (["--temperature", "hot"], "--temperature (LLM_SERVING_TEMPERATURE)"),
    ],
)
def test_wrong_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    say(monkeypatch, "hi")
    assert run(["chat", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_empty_stdin_is_an_error(
    server: TinyServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say(monkeypatch, " \n")
    assert run(["chat", "--url", server.url]) == 2
    assert "stdin is empty" in capsys.readouterr().err


class Terminal:
    """The program on a pseudo-terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process = process
        self._descriptor = descriptor
        self._unread = ""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def has(self, text: str) -> bool:
        """Whether `text` has come, after what was found before."""
        if select.select([self._descriptor], [], [], 0.02)[0]:
            self._unread += os.read(self._descriptor, 4096).decode("utf-8", "replace")
        before, found, after = self._unread.partition(text)
        self._unread = after if found else before
        return bool(found)

    def wait_for(self, text: str) -> None:
        assert wait(lambda: self.has(text), PATIENCE_S), f"no {text!r} in {self._unread!r}"


def wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "llm_serving.cli", "chat", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


def test_a_conversation_on_a_terminal(server: TinyServer) -> None:
    server.replies = [Reply(pieces=["Hel", "lo\x1b[31m!"]), Reply(stall_after=3), Reply(pieces=["Bye."])]
    with terminal("--url", server.url) as screen:
        screen.wait_for("> ")
        screen.type("first\n")
        screen.wait_for("Hello[31m!")  # the escape character is taken out
        screen.wait_for("tok/s")
        screen.wait_for("> ")
        screen.type("second\n")
        screen.wait_for("Hello")
        assert server.stalled.wait(PATIENCE_S)
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for("(stopped)")
        assert server.client_left.wait(PATIENCE_S)
        screen.wait_for("> ")
        screen.type("/help\nthird\n")
        screen.wait_for("/reset starts anew")
        screen.wait_for("Bye.")
        screen.wait_for("> ")
        screen.type("/system be brief\nfourth\n")
        screen.wait_for("tok/s")
        screen.wait_for("> ")
        screen.type("\x04")
        assert screen.process.wait(PATIENCE_S) == 0
    contents = [[message["content"] for message in request["messages"]] for request in server.requests]
    assert contents[0] == ["first"]
    assert contents[2] == ["first", "Hello\x1b[31m!", "second", "Hello", "third"]  # what was said stays
    assert contents[3] == ["be brief", "fourth"]


def test_a_conversation_that_grows_too_long_goes_on() -> None:
    with terminal("--engine", "fake", "--context-length", "300", "--max-new-tokens", "20") as screen:
        for question in "abc":
            screen.wait_for("> ")
            screen.type(question * 90 + "\n")
            screen.wait_for("tok/s")
        screen.wait_for("without the 2 oldest messages")


def test_a_terminal_shows_thoughts_and_the_conversation_has_none(server: TinyServer) -> None:
    server.replies = [Reply(pieces=["Hello"], thoughts=["Let me", " see."]), Reply(pieces=["Bye."])]
    with terminal("--url", server.url) as screen:
        screen.wait_for("> ")
        screen.type("first\n")
        screen.wait_for("Let me")
        screen.wait_for(" see.")
        screen.wait_for("\r\n\r\nHello")
        screen.wait_for("> ")
        screen.type("second\n")
        screen.wait_for("Bye.")
    contents = [message["content"] for message in server.requests[1]["messages"]]
    assert contents == ["first", "Hello", "second"]


@pytest.mark.parametrize(
    ("keys", "num_hints", "num_questions"),
    [
        ([KeyboardInterrupt, KeyboardInterrupt], 1, 0),
        ([KeyboardInterrupt, "", "hi", KeyboardInterrupt, EOFError], 2, 1),
        (["/nonsense", "/reset", "/quit"], 0, 0),
    ],
)
def test_leaving_the_prompt(
    server: TinyServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keys: list[str | type[BaseException]],
    num_hints: int,
    num_questions: int,
) -> None:
    def type_next(prompt: str) -> str:
        key = keys.pop(0)
        if isinstance(key, str):
            return key
        raise key

    monkeypatch.setattr("builtins.input", type_next)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert run(["chat", "--url", server.url]) == 0
    assert keys == []
    assert capsys.readouterr().out.count("Ctrl-C again or Ctrl-D quits.") == num_hints
    assert len(server.requests) == num_questions
