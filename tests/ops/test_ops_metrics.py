"""Metrics: what is observed of a sequence, and what is read from the engine."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from llm_serving.embeddings.batcher import BatcherStats
from llm_serving.engine.protocol import EngineStats
from llm_serving.engine.request import FinishReason, Timings, TokenEvent
from llm_serving.ops.metrics import Metrics


def samples_of(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        sample.name: sample.value
        for family in families
        for sample in family.samples
        if sample.labels in ({}, {"model": "m"})
    }


def last_event(num_completion: int, timings: Timings) -> TokenEvent:
    return TokenEvent("r", (), "", FinishReason.STOP, 3, 0, num_completion, timings)


def test_timings_of_a_sequence() -> None:
    metrics = Metrics(lambda: True)
    metrics.observe(last_event(5, Timings(arrived_s=1, scheduled_s=2, first_token_s=4, finished_s=8)), "m")
    samples = samples_of(metrics)
    assert samples["llm_serving_queue_seconds_sum"] == 1
    assert samples["llm_serving_time_to_first_token_seconds_sum"] == 3
    assert samples["llm_serving_inter_token_seconds_sum"] == 1
    assert samples["llm_serving_sequence_seconds_sum"] == 7


def test_one_token_has_no_time_between_tokens() -> None:
    metrics = Metrics(lambda: True)
    metrics.observe(last_event(1, Timings(1, 1, 2, 2)), "m")
    metrics.observe(last_event(0, Timings(1, 1, 0, 2)), "m")
    samples = samples_of(metrics)
    assert "llm_serving_inter_token_seconds_count" not in samples
    assert samples["llm_serving_time_to_first_token_seconds_count"] == 1
    assert samples["llm_serving_sequence_seconds_count"] == 2


def test_engine_is_read_when_asked() -> None:
    engines: dict[str, EngineStats] = {}
    metrics = Metrics(lambda: bool(engines), lambda: engines)
    before = samples_of(metrics)
    assert before["llm_serving_ready"] == 0
    assert "llm_serving_kv_blocks" not in before
    engines["m"] = EngineStats(
        "cpu",
        num_running=2,
        num_waiting=3,
        num_blocks=9,
        num_free_blocks=4,
        num_drafted_tokens=6,
        num_accepted_tokens=5,
        num_steps=7,
        num_read_blocks=8,
        num_written_blocks=10,
        num_dropped_blocks=11,
        disk_bytes=12,
    )
    after = samples_of(metrics)
    assert after["llm_serving_ready"] == 1
    assert after["llm_serving_sequences_running"] == 2
    assert after["llm_serving_sequences_waiting"] == 3
    assert after["llm_serving_kv_blocks_free"] == 4
    assert after["llm_serving_engine_steps_total"] == 7
    assert after["llm_serving_drafted_tokens_total"] == 6
    assert after["llm_serving_accepted_tokens_total"] == 5
    assert after["llm_serving_kv_blocks_read_total"] == 8
    assert after["llm_serving_kv_blocks_written_total"] == 10
    assert after["llm_serving_kv_blocks_dropped_total"] == 11
    assert after["llm_serving_kv_disk_bytes"] == 12


def test_apps_do_not_share_metrics() -> None:
    first, second = Metrics(lambda: True), Metrics(lambda: True)
    first.observe(last_event(1, Timings()), "m")
    assert "llm_serving_sequence_seconds_count" not in samples_of(second)


def test_models_are_told_apart() -> None:
    engines = {"a": EngineStats("cpu", num_running=1), "b": EngineStats("cpu", num_running=2)}
    metrics = Metrics(lambda: True, lambda: engines)
    metrics.observe(last_event(2, Timings()), "b")
    lines = metrics.render().decode().splitlines()
    for line in ('sequences_running{model="a"} 1.0', 'sequences_running{model="b"} 2.0'):
        assert f"llm_serving_{line}" in lines
    assert 'llm_serving_sequence_seconds_count{model="b"} 1.0' in lines
    assert not any(line.startswith('llm_serving_sequence_seconds_count{model="a"}') for line in lines)


def test_encoders_are_read_when_asked_by_kind() -> None:
    encoders: dict[str, BatcherStats] = {}
    metrics = Metrics(lambda: True, dict, lambda: encoders)
    assert "kind=" not in metrics.render().decode()
    sizes = (1, 0, 2, *[0] * 6, 1)
    encoders["embedding"] = BatcherStats(3, 2, 4, 310, 5000, 4, 1.5, sizes)
    encoders["reranker"] = BatcherStats()
    lines = metrics.render().decode().splitlines()
    for name, value in (
        ("texts_waiting", 3),
        ("texts_running", 2),
        ("requests_total", 4),
        ("texts_total", 310),
        ("tokens_total", 5000),
        ("busy_seconds_total", 1.5),
        ("batch_texts_count", 4),
        ("batch_texts_sum", 310),
    ):
        assert f'llm_serving_encoder_{name}{{kind="embedding"}} {float(value)}' in lines
    for bound, count in (("1", 1), ("2", 1), ("4", 3), ("256", 3), ("+Inf", 4)):
        assert (
            f'llm_serving_encoder_batch_texts_bucket{{kind="embedding",le="{bound}"}} {float(count)}' in lines
        )
    assert 'llm_serving_encoder_texts_total{kind="reranker"} 0.0' in lines
