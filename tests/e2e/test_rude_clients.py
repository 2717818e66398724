"""Clients that leave in the middle, and servers that are killed, with adapters, states and a draft model."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import wait_until
from test_prefix_restart import metric, server
from tiny_adapters import write_adapter
from tiny_lfm2 import write_tiny_lfm2
from tiny_models import write_tiny_llama

from llm_serving.checkpoints import open_checkpoint

SYSTEM = "You answer in the words of the world and of the one that is in it. " * 6


def body(question: str, model: str, num_tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return {"model": model, "messages": messages, "max_tokens": num_tokens, "ignore_eos": True, **more}


def ask(client: httpx.Client, question: str, model: str) -> tuple[str, int]:
    """(text, cached tokens)."""
    asked = client.post("/v1/chat/completions", json=body(question, model, 24, temperature=0))
    answer = asked.raise_for_status().json()
    text: str = answer["choices"][0]["message"]["content"]
    return text, answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def leave(client: httpx.Client, question: str, model: str, num_lines: int) -> None:
    """Read so many lines of a long answer, then no more."""
    with client.stream(
        "POST", "/v1/chat/completions", json=body(question, model, 900, stream=True)
    ) as response:
        for _ in zip(range(num_lines), response.iter_lines(), strict=False):
            pass


def drafted(directory: Path) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    model = write_tiny_llama(directory / "tiny.gguf", context=2048)
    small = write_tiny_llama(directory / "small.gguf", context=2048, layers=1)
    return model, ("--draft-model", str(small)), ("default",)


def adapted(directory: Path) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    model = write_tiny_llama(directory / "tiny.gguf", context=2048)
    checkpoint = open_checkpoint(model)
    options: list[str] = []
    for seed, name in enumerate(("red", "blue")):
        options += ["--lora", f"{name}={write_adapter(directory / name, checkpoint, seed=seed, gain=2.0)}"]
    return model, tuple(options), ("tiny", "red", "blue")


def recurrent(directory: Path) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    return write_tiny_lfm2(directory / "tiny.gguf", context=2048), (), ("default",)


@pytest.mark.parametrize("kind", [drafted, adapted, recurrent])
def test_who_leaves_leaves_nothing_behind(
    kind: Callable[[Path], tuple[Path, tuple[str, ...], tuple[str, ...]]], tmp_path: Path
) -> None:
    model, options, names = kind(tmp_path)
    with server(model, "--max-concurrency", "6", "--max-queue", "64", *options) as (_, client):
        expected = {name: ask(client, "Hello world", name)[0] for name in names}
        assert len(set(expected.values())) == len(names)
        threads = [
            threading.Thread(target=leave, args=(client, f"{i} Hello", names[i % len(names)], i % 7))
            for i in range(24)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert {name: ask(client, "Hello world", name)[0] for name in names} == expected
        wait_until(lambda: not (metric(client, "sequences_running") + metric(client, "sequences_waiting")))
        assert metric(client, "kv_blocks_free") == metric(client, "kv_blocks")
        assert {name: ask(client, "Hello world", name)[0] for name in names} == expected
        assert "Traceback" not in (tmp_path / "log").read_text()


def test_what_a_killed_server_kept_is_found_by_its_own_adapter_only(tmp_path: Path) -> None:
    model, options, names = adapted(tmp_path)
    options += ("--prefix-cache-dir", str(tmp_path / "kv"), "--prefix-cache-disk", "64M")
    with server(model, *options) as (process, client):
        expected = {name: ask(client, "Hello world", name) for name in names[:2]}
        assert [cached for _, cached in expected.values()] == [0, 0]
        thread = threading.Thread(target=_keep_asking, args=(client, names[1]))
        thread.start()
        wait_until(lambda: metric(client, "kv_blocks_written_total") >= 40)
        process.send_signal(signal.SIGKILL)
        thread.join()
    with server(model, *options) as (_, client):
        for name in names[:2]:
            text, cached = ask(client, "Hello world", name)
            assert text == expected[name][0]
            assert cached > 100
        assert ask(client, "Hello world", names[2])[1] == 0
        assert "Traceback" not in (tmp_path / "log").read_text()


def _keep_asking(client: httpx.Client, model: str) -> None:
    try:
        for number in range(10_000):
            ask(client, f"{number} " * 40, model)
    except httpx.HTTPError:
        pass
