"""Builder arguments and settings → replicas; the rest of `deploy` without Ray."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from typing import Any

import pytest

from llm_serving.config import Settings, SettingsError
from llm_serving.deploy.plan import plan
from llm_serving.native.cpu import cpu_budget


def test_what_is_not_said_comes_from_settings_and_machine() -> None:
    planned = plan({})
    threads = cpu_budget().threads
    assert planned.settings == Settings(threads=threads)
    options = planned.options
    assert options["num_replicas"] == 1
    assert "autoscaling_config" not in options
    assert "request_router_config" not in options
    assert options["ray_actor_options"] == {"num_cpus": threads}
    assert (options["max_ongoing_requests"], options["max_queued_requests"]) == (96, 64)
    assert options["graceful_shutdown_timeout_s"] == 35


def test_arguments_beat_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVING_MAX_QUEUE", "1")
    monkeypatch.setenv("LLM_SERVING_MAX_CONCURRENCY", "5")
    planned = plan({"model_name": "x.gguf", "num_replicas": "2", "max_queue": "7", "threads": "3"})
    assert (planned.settings.model_name, planned.settings.max_queue, planned.settings.threads) == (
        "x.gguf",
        7,
        3,
    )
    assert planned.options["num_replicas"] == 2
    assert planned.options["max_ongoing_requests"] == 12
    assert planned.options["ray_actor_options"] == {"num_cpus": 3}


@pytest.mark.parametrize(
    "given", ['{"min_replicas": 1, "max_replicas": 4}', {"min_replicas": 1, "max_replicas": 4}]
)
def test_autoscaling(given: Any) -> None:
    options = plan({"autoscaling_config": given, "max_concurrency": 8}).options
    assert options["autoscaling_config"] == {
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 8,
    }
    assert "num_replicas" not in options
    chosen = plan({"autoscaling_config": {"target_ongoing_requests": 3}}).options
    assert chosen["autoscaling_config"] == {"target_ongoing_requests": 3}
    automatic = plan({"num_replicas": "auto"}).options
    assert (automatic["num_replicas"], automatic["autoscaling_config"]) == (
        "auto",
        {"target_ongoing_requests": 32},
    )


def test_a_card_for_each_replica() -> None:
    for device in ("cuda", "cuda:0"):
        resources = plan({"device": device, "threads": 2}).options["ray_actor_options"]
        assert resources == {"num_cpus": 2, "num_gpus": 1}


def test_a_router_of_ones_own() -> None:
    options = plan({"request_router_class": "package.module.Router"}).options
    assert options["request_router_config"] == {"request_router_class": "package.module.Router"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_replicas": "0"}, "num_replicas"),
        ({"num_replicas": "many"}, "num_replicas"),
        ({"num_replicas": 1.5}, "num_replicas"),
        ({"num_replicas": 2, "autoscaling_config": {}}, "not both"),
        ({"autoscaling_config": "{"}, "autoscaling_config"),
        ({"autoscaling_config": "[1]"}, "autoscaling_config"),
        ({"device": "cuda:1"}, "device"),
        ({"port": "8001"}, "--http-port"),
        ({"host": "0.0.0.0"}, "--http-host"),
        ({"max_queue": "-1"}, "--max-queue"),
        ({"replicas": 2}, "no setting 'replicas'"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        plan(arguments)


def test_settings_travel_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = plan({"model_name": "here.gguf", "threads": 2}).settings
    sent = pickle.dumps(settings)
    monkeypatch.setenv("LLM_SERVING_MODEL_NAME", "there.gguf")
    monkeypatch.setenv("LLM_SERVING_MAX_QUEUE", "1")
    assert pickle.loads(sent) == settings


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="ray is installed")
def test_the_missing_extra_is_one_line() -> None:
    probe = [sys.executable, "-c", "import llm_serving.deploy.ray_serve"]
    done = subprocess.run(probe, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "MissingExtra: This needs 'ray[serve]'. Install it with: pip install 'llm-serving[ray]'"
    )
