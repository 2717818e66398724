"""Files and batches by hand: what is refused, whose they are, and what a restart leaves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import patience
import pytest
from fake_server import Client, fake_app, open_client
from patience import PATIENCE_S

from llm_serving.config import SettingsError

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
GOOD = {"input_file_id": "file-none", "endpoint": CHAT, "completion_window": "24h"}
ENDLESS = {"max_tokens": 3000, "ignore_eos": True}


def lines(count: int, **more: Any) -> bytes:
    body = {"messages": [{"role": "user", "content": "Hi"}], **more}
    made = [{"custom_id": f"r{i}", "method": "POST", "url": CHAT, "body": body} for i in range(count)]
    return b"\n".join(json.dumps(line).encode() for line in made)


async def upload(client: Client, content: bytes, **fields: str) -> Any:
    return await client.post(
        "/v1/files", files={"file": ("a.jsonl", content)}, data={"purpose": "batch", **fields}
    )


async def begin(client: Client, content: bytes, **headers: str) -> Any:
    file = await client.post(
        "/v1/files", files={"file": ("a.jsonl", content)}, data={"purpose": "batch"}, headers=headers
    )
    body = {"input_file_id": file.json()["id"], "endpoint": CHAT, "completion_window": "24h"}
    return (await client.post("/v1/batches", json=body, headers=headers)).json()


async def until(client: Client, batch_id: str, *statuses: str, **headers: str) -> Any:
    async def poll() -> Any:
        while True:
            batch = (await client.get(f"/v1/batches/{batch_id}", headers=headers)).json()
            if batch["status"] in statuses:
                return batch
            await asyncio.sleep(0.005)

    return await asyncio.wait_for(poll(), PATIENCE_S)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input_file_id"),
        ({**GOOD, "endpoint": "/v1/none"}, "endpoint"),
        ({**GOOD, "completion_window": "1h"}, "completion_window"),
        ({**GOOD, "input_file_id": 5}, "input_file_id"),
        (
            {"input_file_id": "x", "endpoint": CHAT, "completion_window": "24h", "metadata": {"a": 5}},
            "metadata.a",
        ),
    ],
)
async def test_wrong_batches(body: dict[str, Any], param: str) -> None:
    async with open_client() as client:
        response = await client.post("/batches", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_wrong_files() -> None:
    async with open_client(files_bytes="100k") as client:
        for sent in (
            {"json": {}},
            {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}},
        ):
            response = await client.post("/files", **sent)
            assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
        response = await upload(client, b"{}", purpose="fine-tune")
        assert (response.status_code, response.json()["error"]["param"]) == (400, "purpose")
        assert (await upload(client, b"x" * 60_000)).status_code == 200
        response = await upload(client, b"x" * 60_000)
        assert response.status_code == 400
        assert "--files-bytes" in response.json()["error"]["message"]
        (kept,) = (await client.get("/files")).json()["data"]
        assert (await client.delete(f"/files/{kept['id']}")).json()["deleted"]
        assert (await upload(client, b"x" * 60_000)).status_code == 200


@pytest.mark.parametrize("more", [{}, {"content-length": "90190"}])
async def test_what_was_only_announced_keeps_no_room_from_others(more: dict[str, str]) -> None:
    begun, other_is_there = asyncio.Event(), asyncio.Event()

    async def form() -> AsyncIterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 30_000
        begun.set()
        await other_is_there.wait()
        for _ in range(6):
            yield b"x" * 10_000
        yield b"\r\n--x--\r\n"

    async with open_client(files_bytes="100k") as client:
        headers = {"content-type": "multipart/form-data; boundary=x", **more}
        slow = asyncio.ensure_future(client.post("/files", content=form(), headers=headers))
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        assert (await upload(client, b"x" * 80_000)).status_code == 400  # what has come counts
        assert (await upload(client, b"x" * 50_000)).status_code == 200
        other_is_there.set()
        response = await asyncio.wait_for(slow, PATIENCE_S)
        assert (response.status_code, "--files-bytes" in response.text) == (400, True)
        assert len((await client.get("/files")).json()["data"]) == 1
        assert (await upload(client, b"x" * 40_000)).status_code == 200  # and counts no longer


async def test_an_upload_that_stops_coming_keeps_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_serving.api.middleware._PATIENCE_S", 0.05)

    async def form() -> AsyncIterator[bytes]:
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"x" * 30_000
        await asyncio.sleep(60)

    async with open_client(files_bytes="100k") as client:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = await asyncio.wait_for(client.post("/files", content=form(), headers=headers), PATIENCE_S)
        assert (response.status_code, response.json()["error"]["code"]) == (408, "request_timeout")
        assert client.services.files._num_bytes == 0


async def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_serving.api.app.MAX_FILE_BYTES", 1000)
    async with open_client() as client:
        response = await upload(client, b"x" * 100_000)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert "Split the file" in response.text
        assert (await client.get("/files")).json()["data"] == []
        assert client.services.files._num_bytes == 0


async def test_none_are_taken_where_there_is_no_room_at_all() -> None:
    async with open_client(files_bytes="0") as client:
        response = await upload(client, b"{}")
        assert (response.status_code, "--files-bytes" in response.text) == (400, True)


async def test_each_key_has_its_own() -> None:
    async with open_client(api_key=("one", "two"), behaviour={"reply": "Hi"}) as client:
        mine, other = {"authorization": "Bearer one"}, {"authorization": "Bearer two"}
        batch = await begin(client, lines(2), **mine)
        batch = await until(client, batch["id"], "completed", **mine)
        for path in (f"/batches/{batch['id']}", f"/files/{batch['output_file_id']}/content"):
            assert (await client.get(path, headers=mine)).status_code == 200
            assert (await client.get(path, headers=other)).status_code == 404
        for path in ("/files", "/batches"):
            assert (await client.get(path, headers=other)).json()["data"] == []


async def test_others_are_served_meanwhile() -> None:
    """A batch takes half of the places, and stands behind all who wait."""
    async with open_client(max_concurrency=4, behaviour={"step_seconds": 0.001}) as client:
        batch = await begin(client, lines(20, **ENDLESS))
        await until(client, batch["id"], "in_progress")
        answer = await client.post(CHAT, json={"messages": [{"role": "user", "content": "Hi"}]})
        assert answer.status_code == 200
        assert client.stats.num_running <= 2
        await client.post(f"/batches/{batch['id']}/cancel")
        await until(client, batch["id"], "cancelled")
        await patience.until(lambda: client.stats.num_running == 0)


async def test_goes_on_after_a_restart(tmp_path: Path) -> None:
    settings = {"files_dir": str(tmp_path), "max_concurrency": 2}
    slow = {"reply": "Hello, world! " * 20, "step_seconds": 0.002}
    async with open_client(behaviour=slow, **settings) as client:
        batch = await begin(client, lines(6))
        while not (await client.get(f"/batches/{batch['id']}")).json()["request_counts"]["completed"]:
            await asyncio.sleep(0.005)
    (part,) = tmp_path.glob("*.output.part")
    first = [json.loads(line)["id"] for line in part.read_bytes().splitlines()]
    part.write_bytes(part.read_bytes() + b'{"custom_id": "torn')  # as kill -9 may leave it
    async with open_client(behaviour={"reply": "Hi"}, **settings) as client:
        batch = await until(client, batch["id"], "completed")
        assert batch["request_counts"] == {"total": 6, "completed": 6, "failed": 0}
        content = (await client.get(f"/files/{batch['output_file_id']}/content")).content
        found = [json.loads(line) for line in content.splitlines()]
        assert [line["id"] for line in found][: len(first)] == first
        assert sorted(line["custom_id"] for line in found) == [f"r{i}" for i in range(6)]
    async with open_client(**settings) as client:
        assert (await client.get(f"/batches/{batch['id']}")).json() == batch
        assert len((await client.get("/files")).json()["data"]) == 2


async def test_a_key_that_is_gone_asks_nothing(tmp_path: Path) -> None:
    settings = {"files_dir": str(tmp_path), "max_concurrency": 2}
    async with open_client(api_key=("old",), behaviour={"step_seconds": 0.001}, **settings) as client:
        batch = await begin(client, lines(3, **ENDLESS), authorization="Bearer old")
        await until(client, batch["id"], "in_progress", authorization="Bearer old")
    async with open_client(api_key=("new",), **settings) as client:
        while not (errors := [p for p in tmp_path.glob("file-*") if b'"status_code"' in p.read_bytes()]):
            await asyncio.sleep(0.005)
        answer = await client.get(f"/batches/{batch['id']}", headers={"authorization": "Bearer new"})
        assert answer.status_code == 404
    said = [json.loads(line)["response"] for line in errors[0].read_bytes().splitlines()]
    assert [told["status_code"] for told in said] == [401] * 3


async def test_a_folder_has_one_server(tmp_path: Path) -> None:
    async with open_client(files_dir=str(tmp_path)):
        with pytest.raises(SettingsError, match="--files-dir.*another server"):
            fake_app(files_dir=str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="--files-dir.*cannot be used"):
        fake_app(files_dir=str(tmp_path / "file"))


async def test_a_temporary_folder_goes() -> None:
    async with open_client() as client:
        await upload(client, b"{}")
        folder = client.services.files.folder
        assert (folder.stat().st_mode & 0o777, len(list(folder.iterdir()))) == (0o700, 2)
    assert not folder.exists()
