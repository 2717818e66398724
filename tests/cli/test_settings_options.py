"""Every setting is a flag; what was typed goes to the settings unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from llm_serving.cli.settings_options import read_settings, settings_options
from llm_serving.config import Settings, SettingsError, env_name, flag_name


def parse(*arguments: str, without: tuple[str, ...] = ()) -> Settings:
    seen: list[dict[str, Any]] = []

    @click.command()
    @settings_options(without=without)
    def command(**flags: Any) -> None:
        seen.append(flags)

    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return read_settings(seen[0])


def test_nothing_typed_is_the_default() -> None:
    assert parse() == Settings()


@pytest.mark.parametrize(
    ("arguments", "field", "value"),
    [
        (["--port", "9"], "port", 9),
        (["--port", "0"], "port", 0),
        (["--memory", "1.5g"], "memory", 3 << 29),
        (["--no-do-sample"], "do_sample", False),
        (["--strict-model-names"], "strict_model_names", True),
        (["--no-playground"], "playground", False),
        (["--api-key", "a,b", "--api-key", "c"], "api_key", ("a,b", "c")),
        (["--further-models", "a,b", "--further-models", "c"], "further_models", ("a", "b", "c")),
        (["--api-key-file", "/k"], "api_key_file", Path("/k")),
        (["--system-prompt", ""], "system_prompt", ""),
        (["--temperature", "0"], "temperature", 0.0),
        (["--log-level", "DEBUG"], "log_level", "debug"),
    ],
)
def test_flags_are_settings(arguments: list[str], field: str, value: object) -> None:
    assert getattr(parse(*arguments), field) == value


def test_a_flag_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVING_PORT", "1111")
    monkeypatch.setenv("LLM_SERVING_SYSTEM_PROMPT", "be brief")
    assert parse().port == 1111
    assert parse("--port", "2222").port == 2222
    assert parse("--system-prompt", "").system_prompt == ""


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--port", "70000"], ["--temperature", "nan"]])
def test_wrong_values_name_flag_and_variable(arguments: list[str]) -> None:
    with pytest.raises(SettingsError, match=rf"{arguments[0]} \(LLM_SERVING_"):
        parse(*arguments)


def test_the_help_has_every_field_with_its_variable() -> None:
    @click.command()
    @settings_options()
    def command(**flags: Any) -> None: ...

    text = " ".join(CliRunner().invoke(command, ["--help"], terminal_width=400).output.split())
    for name, field in Settings.model_fields.items():
        assert flag_name(name) in text
        assert env_name(name) in text
        assert " ".join((field.description or "?").split()) in text
    assert "--memory BYTES" in text
    assert "--api-key-file PATH" in text
