"""Where a server with OpenAI's API is, as people type it."""

from __future__ import annotations


def api_base(url: str) -> str:
    """`host:8001`, `http://host:8001/` and `http://host:8001/v1` → `http://host:8001/v1`."""
    base = url.rstrip("/") if "//" in url else f"http://{url.rstrip('/')}"
    return base if base.endswith("/v1") else f"{base}/v1"
