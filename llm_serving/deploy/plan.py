"""Arguments and settings → what a cluster has to know of a replica. Knows nothing of Ray but its words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm_serving.config import Settings, SettingsError
from llm_serving.native.cpu import cpu_budget

# A replica that fails answers quickly, which draws requests to it until Ray has noticed: three checks.
_HEALTH_CHECK_S = 2.0
_END_S = 5.0  # to unload, behind the last request


@dataclass(frozen=True, slots=True)
class Plan:
    """`settings` of every replica; `options` are keywords of `ray.serve.deployment`."""

    settings: Settings
    options: dict[str, Any]


def plan(arguments: Mapping[str, Any]) -> Plan:
    """Settings by their names, as strings or values, beat the environment, which is read here and now.

    Beside them `num_replicas` (a number or `auto`), `autoscaling_config` (JSON or a mapping) and
    `request_router_class` (a dotted path) are Ray's. A replica runs with as many threads as Ray reserves
    CPUs for it: those of `threads`, or all of the machine where this is called. Raises: SettingsError.
    """
    given = dict(arguments)
    replicas = _replicas(given.pop("num_replicas", None), given.pop("autoscaling_config", None))
    router = given.pop("request_router_class", None)
    for name in ("host", "port"):
        if name in given:
            raise SettingsError(f"'{name}' is the address of Ray's proxies: serve start --http-{name}")
    settings = Settings(**given)
    settings = settings.model_copy(update={"threads": settings.threads or cpu_budget().threads})
    autoscaling = replicas.get("autoscaling_config")
    if autoscaling is not None:  # Ray's own is 2, which leaves most of a replica unused
        autoscaling.setdefault("target_ongoing_requests", settings.max_concurrency)
    return Plan(
        settings,
        {
            **replicas,
            **({"request_router_config": {"request_router_class": router}} if router else {}),
            "ray_actor_options": _resources(settings),
            "max_ongoing_requests": settings.max_concurrency + settings.max_queue,
            "max_queued_requests": max(1, settings.max_queue),  # in each proxy; Ray refuses more with 503
            "health_check_period_s": _HEALTH_CHECK_S,
            "graceful_shutdown_timeout_s": settings.drain_s + _END_S,
            "graceful_shutdown_wait_loop_s": 0.5,
            "logging_config": {"enable_access_log": False},  # ours says more
        },
    )


def _replicas(number: Any, autoscaling: Any) -> dict[str, Any]:
    if autoscaling is not None:
        if number not in (None, "auto"):
            raise SettingsError("give num_replicas or autoscaling_config, not both")
        return {"autoscaling_config": _mapping(autoscaling)}
    if number == "auto":
        return {"num_replicas": "auto", "autoscaling_config": {}}
    try:
        count = 1 if number is None else int(str(number))
    except ValueError:
        count = 0
    if count < 1:
        raise SettingsError("num_replicas: must be a number from 1 on, or auto")
    return {"num_replicas": count}


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, Mapping):
        raise SettingsError('autoscaling_config: must be JSON such as {"min_replicas": 1, "max_replicas": 4}')
    return dict(value)


def _resources(settings: Settings) -> dict[str, Any]:
    if not settings.device.startswith("cuda"):
        return {"num_cpus": settings.threads}
    if settings.device not in ("cuda", "cuda:0"):
        raise SettingsError("device: Ray chooses the card of each replica; say cuda")
    return {"num_cpus": settings.threads, "num_gpus": 1}
