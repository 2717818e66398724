"""A server of a model with recurrent layers: what is found again of its prompts, and what its log says."""

from __future__ import annotations

from pathlib import Path

import httpx
from test_prefix_restart import ask, server
from tiny_lfm2 import write_tiny_lfm2

QUESTIONS = ("Hello world", "What of the other one?", "And then?")


def converse(client: httpx.Client, *contents: str) -> tuple[str, int, int]:
    """(text, cached tokens, prompt tokens) of the next answer in a conversation."""
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)
    ]
    body = {"messages": messages, "max_tokens": 40, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    usage = answer["usage"]
    text: str = answer["choices"][0]["message"]["content"]
    return text, usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


def test_prompts_are_found_again(tmp_path: Path) -> None:
    model = write_tiny_lfm2(tmp_path / "tiny.gguf", context=2048)
    plain = {}
    for question in QUESTIONS:
        with server(model) as (_, client):
            plain[question] = ask(client, question)
    assert [cached for _, cached in plain.values()] == [0, 0, 0]
    with server(model, "--prefix-cache-dir", str(tmp_path / "kv")) as (_, client):
        found = [ask(client, question) for question in QUESTIONS]
        assert [text for text, _ in found] == [text for text, _ in plain.values()]
        assert [cached > 100 for _, cached in found] == [False, False, True]
        text, none, num_tokens = converse(client, "Tell me of the world and of all that is in it.")
        again, cached, _ = converse(client, "Tell me of the world and of all that is in it.")
        assert (again, none, cached) == (text, 0, (num_tokens - 1) // 16 * 16)
        assert converse(client, "Tell me of the world and of all that is in it.", text, "Go on")[1] >= cached
        log = (tmp_path / "log").read_text()
        assert "Prefixes are not kept on disk: this model has recurrent layers" in log
        assert "Traceback" not in log
    assert not (tmp_path / "kv").exists()
