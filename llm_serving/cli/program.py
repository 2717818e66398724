"""The command table, and how errors end the program: one line on stderr, no traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from llm_serving.errors import ServingError

# name → (module, help line). The module holds a click command `command`; it is imported when it is run.
_COMMANDS = {
    "serve": ("llm_serving.cli.serve", "Serve a model behind the OpenAI API."),
    "chat": ("llm_serving.cli.chat", "Chat in the terminal, with a server or in this process."),
    "batch": ("llm_serving.cli.batch", "Answer all requests of a file."),
    "models": ("llm_serving.cli.models", "List, fetch, show and remove models."),
    "bench": ("llm_serving.cli.bench", "Measure the engine, or a server under load."),
    "conformance": (
        "llm_serving.cli.conformance.command",
        "Check any server that claims OpenAI's API, and score it.",
    ),
    "doctor": ("llm_serving.cli.doctor", "Check this machine and say what would be used."),
}


class _LazyGroup(click.Group):
    """Shows its help without importing a single command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = import_module(_COMMANDS[name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _show_version(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    from importlib import metadata

    try:
        click.echo(f"llm-serving {metadata.version('llm-serving')}")
    except metadata.PackageNotFoundError:
        click.echo("llm-serving, run from a checkout that is not installed")
    ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show it."
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def program(debug: bool) -> None:
    """A model behind the OpenAI API, fast on the CPU you have."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own); the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        result = program.main(arguments, prog_name="llm-serving", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # The reader has gone (`| head`); keep the interpreter's own flush at exit quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if arguments[:1] == ["--debug"]:
            raise
        click.echo(f"Error: {_one_line(error)}", err=True)
        return 2
    return result if isinstance(result, int) else 0


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ServingError):
        return text
    return f"{type(error).__name__}: {text} (this is a bug; `llm-serving --debug …` shows where)"
