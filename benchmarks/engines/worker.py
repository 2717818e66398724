"""An engine in a process of its own: it reads one JSON object a line and answers each with one.

Peers live in environments of their own, so this module imports nothing but the standard library. A request
is {"prefill": tokens} or {"decode": sequences, "context": tokens, "steps": tokens}; the answer {"tok_s":
number}, or {"error": text} where the engine cannot do it. Only one worker computes at a time; the others
wait in a read.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, Protocol

HERE = Path(__file__).parent


class Engine(Protocol):
    """Tokens per second. Prompts and contexts are random tokens; no call finds anything cached."""

    def prefill(self, tokens: int) -> float:
        """One prompt; the logits of its last token are computed."""
        ...

    def decode(self, sequences: int, context: int, steps: int) -> float:
        """`sequences` at once, each with `context` tokens of its own, grow by one token a step."""
        ...


def arguments() -> argparse.Namespace:
    """What every worker is told; `max_context` is tokens of one sequence."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-sequences", type=int, required=True)
    parser.add_argument("--max-context", type=int, required=True)
    parser.add_argument("--program", default="")
    parser.add_argument("--kv-cache", default="auto")
    return parser.parse_args()


def serve(engine: Engine, answers: IO[str]) -> None:
    """Say that the engine is loaded, then answer requests until the input ends."""
    print(json.dumps({}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any]
        try:
            if "prefill" in request:
                answer = {"tok_s": engine.prefill(request["prefill"])}
            else:
                answer = {"tok_s": engine.decode(request["decode"], request["context"], request["steps"])}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def quiet_stdout() -> IO[str]:
    """A stream to the driver; whatever libraries print to stdout goes to stderr from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


class Worker:
    """The driver's end of one worker. It waits for the engine: nobody loads while another is measured.

    Raises: SystemExit if it died.
    """

    def __init__(self, python: str, script: str, model: Path, log: Path, **options: object) -> None:
        command = [python, str(HERE / script), str(model)]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        self._log = log.open("w")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self._answer()

    def ask(self, request: dict[str, int]) -> float | None:
        """Tokens per second, None when the engine said why not. Raises: SystemExit if it died."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # told below
            print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._answer()
        if "error" in answer:
            print(f"# {answer['error']}", file=sys.stderr)
        rate: float | None = answer.get("tok_s")
        return rate

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"an engine ended; see {self._log.name}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()
