"""The server on a Ray cluster: `serve run llm_serving.deploy.ray_serve:app`, or `…:build name=value …`.

Each replica is the whole server with models of its own, behind Ray's proxies. docs/deployment.md says what
replicas do not share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm_serving.deploy.plan import Plan, plan
from llm_serving.deploy.replica import ReplicaApp
from llm_serving.errors import MissingExtra

try:
    from ray import serve
except ImportError:
    raise MissingExtra("ray[serve]", "ray") from None


class Replica:
    """What Ray asks of a replica beside requests."""

    app: ReplicaApp  # its own copy, by `serve.ingress`

    async def check_health(self) -> None:
        """Raises: RuntimeError with the reason; see `ReplicaApp.check_health`."""
        self.app.check_health()


def build(arguments: Mapping[str, Any]) -> serve.Application:
    """The application for `arguments`; see `plan` for their names. Raises: SettingsError."""
    planned = plan(arguments)
    return application(planned, ReplicaApp(planned.settings))


def application(planned: Plan, replica_app: ReplicaApp) -> serve.Application:
    """`replica_app` on as many replicas, of such a size, as was planned."""
    replica = serve.ingress(replica_app)(Replica)
    return serve.deployment(name="llm-serving", **planned.options)(replica).bind()


def __getattr__(name: str) -> Any:
    """`app`, by the environment's settings; it is not made where `build` is wanted."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return build({})
