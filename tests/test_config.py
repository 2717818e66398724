"""Settings: one field = variable = flag = help line, and errors that name them."""

from __future__ import annotations

from typing import Any

import pytest

from llm_serving.config import Settings, SettingsError, env_name, flag_name
from llm_serving.setting_values import parse_bytes

SEED_SETTINGS = ("model_name", "max_new_tokens", "device", "do_sample", "system_prompt")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(env_name(field), raising=False)


def test_every_field_has_a_help_line_and_a_default() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert not field.is_required(), name
    assert set(SEED_SETTINGS) <= set(Settings.model_fields)


def test_names_of_variable_and_flag() -> None:
    assert env_name("max_queue") == "LLM_SERVING_MAX_QUEUE"
    assert flag_name("max_queue") == "--max-queue"


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("port", "9000", 9000),
        ("do_sample", "false", False),
        ("memory", "4G", 4 << 30),
        ("memory", "auto", 0),
        ("api_key", "one, two,,", ("one", "two")),
        ("further_models", "one, /two.gguf,", ("one", "/two.gguf")),
        ("lora", "a=/x, b=y z=1", ("a=/x", "b=y z=1")),
        ("unload_after_s", "900", 900.0),
        ("heartbeat_s", "2.5", 2.5),
        ("log_level", "WARNING", "warning"),
        ("device", "cuda:1", "cuda:1"),
    ],
)
def test_strings_are_parsed_the_same_from_environment_and_argument(
    monkeypatch: pytest.MonkeyPatch, field: str, text: str, value: Any
) -> None:
    assert getattr(Settings(**{field: text}), field) == value
    monkeypatch.setenv(env_name(field), text)
    assert getattr(Settings(), field) == value


def test_argument_wins_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVING_PORT", "1")
    assert Settings(port=2).port == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", "70000"),
        ("port", "http"),
        ("memory", "four"),
        ("memory", "-1"),
        ("memory", "inf"),
        ("max_concurrency", 0),
        ("temperature", "nan"),
        ("heartbeat_s", 0),
        ("device", "gpu"),
        ("quantization", "q6"),
        ("kv_cache", "q5"),
        ("packed_cache", "some"),
        ("prefix_cache_disk", "-1"),
        ("log_level", "loud"),
        ("api_key", [" "]),
        ("lora", "name"),
        ("lora", ["a=b", "=b"]),
    ],
)
def test_wrong_value_is_one_line_that_names_variable_and_flag(field: str, value: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(**{field: value})
    message = str(caught.value)
    assert env_name(field) in message
    assert flag_name(field) in message
    assert "\n" not in message


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(SettingsError, match=r"--port .*--threads"):
        Settings(port=-1, threads=-1)


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(SettingsError, match="no setting 'modle_name'"):
        Settings(modle_name="x")


def test_keys_are_not_shown() -> None:
    settings = Settings(api_key=("sk-secret",))
    assert "sk-secret" not in repr(settings) + str(settings)
    with pytest.raises(SettingsError) as caught:
        Settings(api_key=("sk-secret", " "))
    assert "sk-secret" not in str(caught.value)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1k", 1024),
        ("1KiB", 1024),
        ("2 MB", 2 << 20),
        ("1.5g", 3 << 29),
        ("1T", 1 << 40),
        ("", 0),
        (7, 7),
    ],
)
def test_byte_sizes(text: object, value: int) -> None:
    assert parse_bytes(text) == value
