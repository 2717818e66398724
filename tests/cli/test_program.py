"""How the program ends: codes, one line of error, no traceback; and how fast it says what it can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from llm_serving.cli import program
from llm_serving.cli.program import run
from llm_serving.errors import ServingError

ROOT = Path(__file__).parents[2]


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(
        f"  {name} " in output for name in ("serve", "chat", "models", "bench", "conformance", "doctor")
    )


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from llm_serving.cli.program import run\n"
        "assert run(['--help']) == 0\n"
        "heavy = {'pydantic', 'rich', 'numpy', 'fastapi', 'uvicorn', 'httpx', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["serve", "chat", "models", "bench", "conformance", "doctor"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"Usage: llm-serving {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["serve", "--nonsense"], ["serve", "a", "b"], ["models"]]
)
def test_usage_errors_end_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert "Usage:" in capsys.readouterr().err


def command_that_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command("doctor")
    def command() -> None:
        raise error

    module: Any = type("Module", (), {"command": command})
    monkeypatch.setattr(program, "import_module", lambda name: module)


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ServingError("It is broken.\nDo this."), 2, "Error: It is broken. Do this.\n"),
        (
            ValueError("what"),
            2,
            "Error: ValueError: what (this is a bug; `llm-serving --debug …` shows where)\n",
        ),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    shown: str,
) -> None:
    command_that_raises(monkeypatch, error)
    assert run(["doctor"]) == code
    assert capsys.readouterr().err.strip() == shown.strip()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that_raises(monkeypatch, ValueError("what"))
    with pytest.raises(ValueError, match="what"):
        run(["--debug", "doctor"])


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    line = f"{{ {sys.executable} -m llm_serving.cli bench --help; echo $? >&2; }} | true"
    result = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert result.stderr.strip() in ("0", "1")  # as fast as `true` is
