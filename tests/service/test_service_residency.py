"""Which models are in memory: how much each may take, who leaves for whom, and who leaves by itself."""

from __future__ import annotations

import asyncio
import random
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from admin_server import KEY
from fake_server import Client, open_client
from patience import until
from several_models import MIB, Zoo, ask, opened, slot_of, states
from tiny_models import write_tiny_llama

from llm_serving.backends.memory_need import MemoryNeed
from llm_serving.config import Settings, SettingsError
from llm_serving.service import slot as slots
from llm_serving.service.loader import load_chat_model, measure_chat_model
from llm_serving.service.model import ModelKind
from llm_serving.service.registry import Registry

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SIZES = {"fake": 100, "one": 100, "two": 100, "huge": 1000}


async def until_resting(client: Client, *names: str) -> None:
    await until(lambda: all(slot_of(client, name).state.value == "available" for name in names))
    await until(lambda: not any(slot_of(client, name).holds_memory for name in names))


async def test_models_stay_while_there_is_room() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", "two", memory=310 * MIB) as client:
        for name in ("one", "two", "one"):
            assert (await ask(client, name)).status_code == 200
        assert await states(client) == {"fake": "loaded", "one": "loaded", "two": "loaded"}
        assert zoo.granted == dict.fromkeys(("fake", "one", "two"), 100 * MIB + 1)


async def test_the_one_used_least_recently_leaves() -> None:
    zoo = Zoo({**SIZES, "three": 100})
    async with opened(zoo, "one", "two", "three", memory=310 * MIB) as client:
        for name in ("one", "two", "one", "three"):
            assert (await ask(client, name)).status_code == 200
        left = {"one": "loaded", "two": "available", "three": "loaded"}
        assert await states(client) == {"fake": "loaded", **left}
        assert zoo.num_open == 3
        assert (await ask(client, "two")).json()["model"] == "two"
        assert (await states(client))["one"] == "available"
        assert zoo.loads == {"fake": 1, "one": 1, "two": 2, "three": 1}


async def test_as_many_leave_as_are_needed_and_the_default_stays() -> None:
    zoo = Zoo({**SIZES, "large": 180})
    async with opened(zoo, "one", "two", "large", memory=310 * MIB) as client:
        for name in ("one", "two", "large"):
            assert (await ask(client, name)).status_code == 200
        left = {"one": "available", "two": "available", "large": "loaded"}
        assert await states(client) == {"fake": "loaded", **left}
        assert zoo.loads["fake"] == 1


async def test_what_does_not_fit_is_refused_in_one_line() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "huge", "one", memory=310 * MIB) as client:
        refused = await ask(client, "huge")
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        assert refused.json()["error"]["message"] == (
            "The model 'huge' cannot answer: it needs 1000 MiB of memory, and 209 MiB are free beside the "
            "models that stay or are answering."
        )
        assert zoo.loads["huge"] == 0
        assert (await states(client))["huge"] == "available"
        assert (await ask(client, "huge")).json() == refused.json()
        for name in ("fake", "one"):
            assert (await ask(client, name)).status_code == 200


async def test_a_model_that_answers_never_leaves() -> None:
    zoo = Zoo(SIZES, random=True)
    async with opened(zoo, "one", "two", memory=210 * MIB) as client:
        await ask(client, "one")
        zoo.steps.shut()
        busy = [ask(client, "one", max_tokens=40, ignore_eos=True, stream=stream) for stream in (True, False)]
        await until(lambda: zoo.engines[1].stats().num_running)
        refused = await ask(client, "two")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_unavailable")
        assert "100 MiB" in refused.json()["error"]["message"]
        zoo.steps.open()
        assert {response.status_code for response in await asyncio.gather(*busy)} == {200}
        assert zoo.loads == {"fake": 1, "one": 1}
        slot_of(client, "two")._retry_s = 0.0
        assert (await ask(client, "two")).status_code == 200
        assert await states(client) == {"fake": "loaded", "one": "available", "two": "loaded"}


async def test_two_cold_models_at_once_are_not_both_let_in() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", "two", memory=210 * MIB) as client:
        zoo.steps.shut()  # or the first could have left before the second comes
        asked = [ask(client, "one"), ask(client, "two")]
        done, others = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().status_code for task in done] == [503]
        await until(lambda: zoo.num_open == 2)
        zoo.steps.open()
        assert [(await task).status_code for task in others] == [200]


async def test_room_that_is_about_to_be_given_back_is_waited_for() -> None:
    zoo = Zoo(SIZES, random=True)
    async with opened(zoo, "one", "two", memory=210 * MIB, headers=KEY, api_key=("k",), drain_s=30) as client:
        await ask(client, "one")
        zoo.steps.shut()
        busy = ask(client, "one", max_tokens=30, ignore_eos=True)
        await until(lambda: zoo.engines[1].stats().num_running)
        unloading = asyncio.create_task(client.post("/admin/models/one/unload"))
        await until(lambda: slot_of(client, "one").is_leaving)
        waiting = ask(client, "two")
        zoo.steps.open()
        assert (await waiting).status_code == 200
        assert (await busy).status_code == 200
        assert (await unloading).status_code == 200


async def test_the_default_model_takes_the_place_of_further_ones() -> None:
    zoo = Zoo(SIZES)
    async with opened(zoo, "one", "two", memory=210 * MIB, headers=KEY, api_key=("k",)) as client:
        await client.post("/admin/models/fake/unload")
        for name in ("one", "two"):
            assert (await ask(client, name)).status_code == 200
        assert (await client.post("/admin/models/fake/load")).json()["state"] == "loaded"
        assert await states(client) == {"fake": "loaded", "one": "available", "two": "loaded"}


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_a_conversation_is_as_long_whatever_is_loaded(others: int) -> None:
    """It is 100 MiB here, and 1 GiB is wanted: half of what is left, but a conversation at least."""
    zoo = Zoo()

    def measure(settings: Settings, kind: ModelKind) -> MemoryNeed:
        return MemoryNeed(50 * MIB, MIB, 100 * MIB, 1024 * MIB)

    further = ("one", "two", "three")
    async with open_client(
        zoo.load, measure=measure, further_models=further, memory=1000 * MIB, embedding_model=""
    ) as client:
        for name in ("one", "two")[:others]:
            await ask(client, name)
        assert (await ask(client, "three")).status_code == 200
        granted = zoo.granted
        assert granted["fake"] == 50 * MIB + 475 * MIB
        assert granted["three"] >= 150 * MIB
        loaded = [name for name, state in (await states(client)).items() if state == "loaded"]
        assert sum(granted[name] for name in loaded) <= 1000 * MIB


async def test_who_was_not_asked_for_some_time_leaves_and_comes_back() -> None:
    zoo = Zoo()
    async with opened(zoo, "one", unload_after_s=0.05, reranker_model="fake-rank") as client:
        assert (await ask(client, "one")).status_code == 200
        await until_resting(client, "fake", "one")
        registry = client.services.registry
        await until(lambda: all(slot.state.value == "available" for slot in registry.slots()))
        assert zoo.num_open == 0
        assert (await client.get("/ready")).status_code == 200
        assert (await client.get("/chat")).json()["status"] == "running"
        assert "llm_serving_ready 1.0\n" in (await client.get("/metrics")).text
        assert (await client.get("/api/ps")).json()["models"] == []
        for name in ("fake", "one"):
            assert (await ask(client, name)).json()["model"] == name
        assert (await client.post("/embeddings", json={"input": "a"})).status_code == 200
        pair = {"query": "a", "documents": ["b"]}
        assert (await client.post("/rerank", json=pair)).status_code == 200


async def test_ollamas_clients_hear_when_a_model_will_leave() -> None:
    async with opened(Zoo(), unload_after_s=3600) as client:
        await ask(client, "fake")
        told = (await client.get("/api/ps")).json()["models"]
        assert len(told) == 2
        for each in told:
            left = datetime.fromisoformat(each["expires_at"].replace("Z", "+00:00")) - datetime.now(
                timezone.utc
            )
            assert timedelta(minutes=50) < left <= timedelta(hours=1)


async def test_nobody_leaves_in_the_middle_of_an_answer() -> None:
    zoo = Zoo(random=True, step_seconds=0.005)
    async with opened(zoo, "one", unload_after_s=0.02) as client:
        for stream in (True, False):
            answer = await ask(client, "one", max_tokens=40, ignore_eos=True, stream=stream)
            assert answer.status_code == 200
            assert "cancelled" not in answer.text
            await until_resting(client, "one")


async def test_models_that_come_and_go_break_no_answer_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "RETRY_S", 0.0)
    zoo = Zoo(SIZES, random=True, step_seconds=0.001)
    choose = random.Random(1)
    async with opened(zoo, "one", "two", memory=210 * MIB, unload_after_s=0.004) as client:

        async def visit() -> set[int]:
            seen = set()
            for _ in range(8):
                await asyncio.sleep(choose.random() / 20)
                name = choose.choice(("fake", "one", "two"))
                answer = await ask(client, name, ignore_eos=True, stream=choose.random() < 0.5)
                seen.add(answer.status_code)
                if answer.status_code == 200:
                    assert "error" not in answer.text
                else:  # or another request tries it again at once, before this one is told
                    message = answer.json()["error"]["message"]
                    assert "MiB of memory" in message or "is loading" in message
            return seen

        seen = set().union(*await asyncio.gather(*(visit() for _ in range(6))))
        assert 200 in seen
        assert zoo.loads.total() > 3
        await until_resting(client, "fake", "one", "two")
        assert zoo.num_open == 0


async def test_what_was_unloaded_by_hand_stays_so() -> None:
    async with opened(Zoo(), unload_after_s=0.02, headers=KEY, api_key=("k",)) as client:
        await until_resting(client, "fake")
        assert (await client.post("/admin/models/fake/unload")).json()["state"] == "unloaded"
        refused = await ask(client, "fake")
        assert refused.json()["error"]["code"] == "model_unavailable"
        assert "/admin/models/fake/load" in refused.json()["error"]["message"]
        assert (await client.get("/ready")).status_code == 503
        assert (await client.post("/admin/models/fake/load")).status_code == 200
        assert (await ask(client, "fake")).status_code == 200


async def test_by_default_models_stay_for_ever() -> None:
    async with opened(Zoo(), "one") as client:
        await ask(client, "one")
        assert client.services.registry._residency._watching is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"further_models": ("a", "b", "A")}, "'a' names two"),
        ({"further_models": ("SmolLM2",), "model_name": "smollm2-135m-instruct"}, "names two"),
        ({"further_models": ("/x/e.gguf",), "embedding_model": "e"}, "'e' names two"),
        ({"further_models": ("a",), "engine": "vllm"}, "vLLM"),
    ],
)
async def test_further_models_that_cannot_be(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(SettingsError, match=f"--further-models.*{problem}"):
        Registry(Settings(**settings))  # type: ignore[arg-type]


def tiny_settings(tmp_path: Path, **more: object) -> Settings:
    paths = [str(write_tiny_llama(tmp_path / name)) for name in ("one", "two")]
    return Settings(
        model_name=paths[0],
        further_models=paths[1:],  # type: ignore[arg-type]
        embedding_model="",
        cache_dir=tmp_path,
        threads=2,
        **more,  # type: ignore[arg-type]
    )


async def test_two_real_models_share_the_memory(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, memory="400M", max_concurrency=1024)
    async with open_client(load_chat_model, **settings.model_dump()) as client:
        for name in ("one", "two"):
            answer = (await ask(client, name)).json()
            assert (answer["model"], answer["usage"]["completion_tokens"]) == (name, 3)
        registry = client.services.registry
        planned = registry._residency._planned
        assert set(planned) == set(registry.chatting())
        assert sum(planned.values()) <= 400 * MIB
        need = measure_chat_model(settings)
        assert need is not None
        for slot in registry.chatting():
            a_block = need.conversation_kv // -(-slot.get().engine.max_context // 16)
            assert slot.get().engine.stats().num_blocks == (planned[slot] - need.weights) // a_block


async def test_a_real_model_that_does_not_fit(tmp_path: Path) -> None:
    settings = tiny_settings(tmp_path, memory="200M")
    async with open_client(load_chat_model, **settings.model_dump()) as client:
        assert (await ask(client, "one")).status_code == 200
        refused = await ask(client, "two")
        assert refused.status_code == 503
        assert "MiB of memory" in refused.json()["error"]["message"]
