"""Prometheus metrics; one registry an app. Facts come from `Timings` and `EngineStats`, read at the edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from llm_serving.embeddings.batcher import BATCH_SIZES, BatcherStats
from llm_serving.engine.protocol import EngineStats
from llm_serving.engine.request import TokenEvent

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "llm_serving_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2.5)

IsReady = Callable[[], bool]
ReadEngines = Callable[[], dict[str, EngineStats]]  # by name of the model; those that are loaded
ReadEncoders = Callable[[], dict[str, BatcherStats]]  # by kind of model; those that are loaded


class Metrics:
    """What an operator watches. Event loop only."""

    def __init__(
        self, is_ready: IsReady, read_engines: ReadEngines = dict, read_encoders: ReadEncoders = dict
    ) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.requests = Counter(
            _PREFIX + "requests", "Answered requests", ("route", "status"), registry=registry
        )
        self.in_flight = Gauge(_PREFIX + "requests_in_flight", "Requests being answered", registry=registry)

        def seconds(name: str, text: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(_PREFIX + name, text, ("model",), buckets=buckets, registry=registry)

        self._queue_s = seconds("queue_seconds", "From arrival to the first engine step")
        self._ttft_s = seconds("time_to_first_token_seconds", "From arrival to the first token")
        self._itl_s = seconds(
            "inter_token_seconds", "Time between tokens, mean of a sequence", _TOKEN_SECONDS
        )
        self._e2e_s = seconds("sequence_seconds", "From arrival to the last token")
        registry.register(_EngineCollector(is_ready, read_engines))
        registry.register(_EncoderCollector(read_encoders))

    def observe(self, event: TokenEvent, model: str) -> None:
        """Take the timings of a sequence of `model` from its last event."""
        timings = event.timings
        self._queue_s.labels(model).observe(max(0.0, timings.scheduled_s - timings.arrived_s))
        self._e2e_s.labels(model).observe(max(0.0, timings.finished_s - timings.arrived_s))
        if event.num_completion_tokens:
            self._ttft_s.labels(model).observe(max(0.0, timings.first_token_s - timings.arrived_s))
        if event.num_completion_tokens > 1:
            decode_s = max(0.0, timings.finished_s - timings.first_token_s)
            self._itl_s.labels(model).observe(decode_s / (event.num_completion_tokens - 1))

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Reads the engine's own counters when somebody asks, so that they cost nothing otherwise."""

    _COUNTERS = {
        "prompt_tokens": ("num_prompt_tokens", "Prompt tokens taken in"),
        "cached_tokens": ("num_cached_tokens", "Prompt tokens found in the prefix cache"),
        "generated_tokens": ("num_generated_tokens", "Tokens generated"),
        "drafted_tokens": ("num_drafted_tokens", "Tokens guessed ahead"),
        "accepted_tokens": ("num_accepted_tokens", "Of the tokens guessed ahead, those that were right"),
        "preemptions": ("num_preemptions", "Sequences put back for lack of KV blocks"),
        "kv_blocks_read": ("num_read_blocks", "KV blocks read from the disk"),
        "kv_blocks_written": ("num_written_blocks", "KV blocks written to the disk"),
        "kv_blocks_dropped": ("num_dropped_blocks", "KV blocks not written because they came too fast"),
        "engine_steps": ("num_steps", "Engine steps"),
        "engine_step_seconds": ("step_seconds", "Seconds spent in engine steps"),
    }
    _GAUGES = {
        "sequences_running": ("num_running", "Sequences in the running batch"),
        "sequences_waiting": ("num_waiting", "Sequences in the queue"),
        "kv_blocks": ("num_blocks", "KV blocks"),
        "kv_blocks_free": ("num_free_blocks", "KV blocks that are free or may be evicted"),
        "kv_disk_bytes": ("disk_bytes", "Bytes of KV blocks on the disk, of all models and servers"),
    }

    def __init__(self, is_ready: IsReady, read_engines: ReadEngines) -> None:
        self._is_ready = is_ready
        self._read_engines = read_engines

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        ready = float(self._is_ready())
        yield GaugeMetricFamily(_PREFIX + "ready", "1 when the default model can answer", value=ready)
        engines = self._read_engines()
        if not engines:
            return
        for kind, table in ((CounterMetricFamily, self._COUNTERS), (GaugeMetricFamily, self._GAUGES)):
            for name, (field, text) in table.items():
                family = kind(_PREFIX + name, text, labels=("model",))
                for model, stats in engines.items():
                    family.add_metric((model,), getattr(stats, field))
                yield family


class _EncoderCollector(Collector):
    """The same for batchers of embedding models, rerankers and classifiers."""

    _COUNTERS = {
        "requests": ("num_requests", "Requests admitted"),
        "texts": ("num_texts", "Texts encoded"),
        "tokens": ("num_tokens", "Tokens encoded"),
        "busy_seconds": ("busy_seconds", "Seconds spent encoding"),
    }
    _GAUGES = {
        "texts_waiting": ("num_waiting", "Texts in the queue"),
        "texts_running": ("num_running", "Texts in the batch at work"),
    }

    def __init__(self, read_encoders: ReadEncoders) -> None:
        self._read_encoders = read_encoders

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        encoders = self._read_encoders()
        prefix = _PREFIX + "encoder_"
        for name, (field, text) in self._COUNTERS.items():
            counter = CounterMetricFamily(prefix + name, text, labels=("kind",))
            for kind, stats in encoders.items():
                counter.add_metric((kind,), getattr(stats, field))
            yield counter
        for name, (field, text) in self._GAUGES.items():
            gauge = GaugeMetricFamily(prefix + name, text, labels=("kind",))
            for kind, stats in encoders.items():
                gauge.add_metric((kind,), getattr(stats, field))
            yield gauge
        sizes = HistogramMetricFamily(prefix + "batch_texts", "Texts in a batch", labels=("kind",))
        bounds = [*map(str, BATCH_SIZES), "+Inf"]
        for kind, stats in encoders.items():
            counts = list(accumulate(stats.batch_sizes))
            sizes.add_metric((kind,), list(zip(bounds, counts, strict=True)), stats.num_texts)
        yield sizes
