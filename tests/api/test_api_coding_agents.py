"""What Codex and Claude Code send, shortened: a turn that calls a tool, and the turn that has its result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_server import Client, open_client, typed_events

pytestmark = pytest.mark.anyio

COMMAND = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
CALLS = {"reply": '<tool_call>\n{"name": "shell", "arguments": {"command": "ls"}}\n</tool_call>'}


def said(role: str, *texts: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "id": f"msg_{role}", "role": role, "content": content}


CODEX: dict[str, Any] = {
    "model": "gpt-5.4",
    "stream": True,
    "input": [
        said("developer", "You are a coding agent."),
        said("developer", "<permissions>", "<skills>"),
        said("user", "<environment_context>"),
        said("user", "What is here?"),
    ],
    "tools": [
        {
            "type": "function",
            "name": "shell",
            "description": "Runs it.",
            "strict": False,
            "parameters": COMMAND,
        },
        {
            "type": "custom",
            "name": "apply_patch",
            "format": {"type": "grammar", "syntax": "lark", "definition": "a: b"},
        },
        {
            "type": "namespace",
            "name": "multi_agent_v1",
            "description": "Sub-agents.",
            "tools": [{"type": "function", "name": "spawn_agent", "strict": False, "parameters": COMMAND}],
        },
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "01a2",
    "client_metadata": {"session_id": "01a2"},
}
CLAUDE_CODE: dict[str, Any] = {
    "model": "claude-sonnet-5",
    "max_tokens": 32000,
    "stream": True,
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>"},
                {"type": "text", "text": "What is here?", "cache_control": {"type": "ephemeral"}},
            ],
        },
        {"role": "system", "content": "Available agent types: none."},
    ],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.123; cc_entrypoint=cli;"},
        {"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral"}},
    ],
    "tools": [{"name": "shell", "description": "Runs it.", "input_schema": COMMAND}],
    "metadata": {"user_id": '{"session_id": "01a2"}'},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
}


async def events_of(client: Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return typed_events(response.text)


async def test_codex() -> None:
    async with open_client(behaviour=CALLS, context_length=16384) as client:
        *_, end = await events_of(client, "/v1/responses", CODEX)
        (call,) = end["response"]["output"]
        assert (call["type"], call["name"]) == ("function_call", "shell")
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "a.txt"}
        *_, end = await events_of(
            client, "/v1/responses", {**CODEX, "input": [*CODEX["input"], call, output]}
        )
        first = end["response"]["usage"]
    assert first["input_tokens_details"]["cached_tokens"] > 0


async def test_claude_code() -> None:
    async with open_client(behaviour=CALLS, context_length=16384) as client:
        assert (await client.head("/")).status_code == 200  # it looks whether somebody is there
        events = await events_of(client, "/v1/messages?beta=true", CLAUDE_CODE)
        starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
        (call,) = starts
        assert (call["type"], call["name"]) == ("tool_use", "shell")
        (delta,) = [event["delta"] for event in events if event["type"] == "content_block_delta"]
        call = {**call, "input": json.loads(delta["partial_json"])}
        system = [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=another;"},
            CLAUDE_CODE["system"][1],
        ]
        turns = [
            *CLAUDE_CODE["messages"],
            {"role": "assistant", "content": [call]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": call["id"], "content": "a.txt"}],
            },
        ]
        start, *_ = await events_of(
            client, "/v1/messages?beta=true", {**CLAUDE_CODE, "system": system, "messages": turns}
        )
        usage = start["message"]["usage"]
        assert usage["cache_read_input_tokens"] > usage["input_tokens"]
        counted = {key: CLAUDE_CODE[key] for key in ("model", "messages", "system", "tools", "thinking")}
        assert (await client.post("/v1/messages/count_tokens?beta=true", json=counted)).status_code == 200
