"""The settings: one field = one environment variable = one flag = one help line.

Field `max_queue` is `LLM_SERVING_MAX_QUEUE` and `--max-queue`. Whoever composes the program reads them once
with `Settings(**overrides)`; everybody else gets the object. Values may be given as the strings that were
typed; parsing and range checks live here only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from llm_serving.errors import ServingError
from llm_serving.setting_values import Adapters, Bytes, Listed, Names

MOST_PIXELS = 89_000_000  # of an image; Pillow warns of more, and of twice that it opens none
ENV_PREFIX = "LLM_SERVING_"


class SettingsError(ServingError):
    """A setting is wrong; the message names the variable and the flag."""


def env_name(field: str) -> str:
    """`max_queue` → `LLM_SERVING_MAX_QUEUE`."""
    return ENV_PREFIX + field.upper()


def flag_name(field: str) -> str:
    """`max_queue` → `--max-queue`."""
    return "--" + field.replace("_", "-")


class Settings(BaseSettings):
    """What the server runs with. Frozen; `SettingsError` if a value is wrong.

    0 means "decide from the model and the machine" where the help line says so.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True
    )

    model_name: str = Field(
        "smollm2-135m-instruct",
        description="Model to serve: a catalogue name, a path to a GGUF file or a directory of safetensors, "
        "or a name on the Hugging Face hub: owner/model, owner/model:Q4_K_M; empty = none, encoders alone",
    )
    further_models: Names = Field(
        (),
        description="Further chat models, names or paths, each loaded when a request names it; repeatable, "
        "or separated by commas",
    )
    lora: Adapters = Field(
        (),
        description="Low-rank adapter of the model as NAME=DIR, a directory that PEFT saved, or "
        "NAME=owner/adapter of the Hugging Face hub; requests choose it by its name as a model; repeatable "
        "(in the variable: separated by commas)",
    )
    unload_after_s: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds without a request after which a model leaves memory until the next; 0 = never",
    )
    embedding_model: str = Field(
        "all-minilm-l6-v2",
        description="Embedding model to serve beside it: a name or a path; empty = none",
    )
    embedding_precision: Literal["auto", "f32", "q8"] = Field(
        "auto", description="Weights of embedding models: f32, q8, or auto (q8 where it is proven as good)"
    )
    reranker_model: str = Field(
        "", description="Cross-encoder for /rerank and /score; empty = by similarity of embeddings"
    )
    classifier_model: str = Field(
        "", description="Model for /classify and /predict: sentiment, topic, toxicity, …; empty = none"
    )
    max_new_tokens: int = Field(1024, ge=1, description="Tokens of an answer when the request names no limit")
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Where the model runs: auto, cpu, cuda:0, …",
    )
    do_sample: bool = Field(True, description="Off: requests that name no temperature are answered greedily")
    temperature: float = Field(
        0.7,
        ge=0,
        le=2,
        allow_inf_nan=False,
        description="Temperature when the request names none and sampling is on",
    )
    system_prompt: str = Field("", description="System message for conversations that bring none")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on")
    port: int = Field(8001, ge=0, le=65535, description="Port to listen on; 0 = any free one")
    engine: str = Field(
        "auto",
        min_length=1,
        description="What runs the model: auto, native, transformers, vllm, or fake (no model, for tests)",
    )
    quantization: Literal["auto", "q4", "q8", "f16", "bf16", "f32"] = Field(
        "auto",
        description="Format of the weights in memory: auto (as near to the file's as is fast), q4, q8, f32; "
        "transformers, vllm: auto, f16, bf16, f32",
    )
    kv_cache: Literal["auto", "q16", "q8", "q4"] = Field(
        "auto",
        description="Keys and values in memory: auto (q16), q16 (16-bit integers), q8 (about half the "
        "bytes, less exact), or q4 (a quarter, for long contexts in little memory; answers change)",
    )
    threads: int = Field(
        0, ge=0, le=1024, description="Threads for the model; 0 = the CPU quota of this process"
    )
    context_length: int = Field(
        0,
        ge=0,
        description="Tokens a conversation may hold; 0 = what the model was trained for, if it fits",
    )
    memory: Bytes = Field(
        0, ge=0, description="Bound for weights and KV cache in bytes, such as 4G; 0 or auto = by the machine"
    )
    max_concurrency: int = Field(
        32, ge=1, le=1024, description="Sequences that are generated at the same time"
    )
    max_queue: int = Field(
        64, ge=0, description="Requests that may wait for a place; more are refused with 429"
    )
    speculation: Literal["auto", "off"] = Field(
        "auto",
        description="Guess ahead, where a text repeats itself or by --draft-model: auto or off; "
        "never changes an answer",
    )
    draft_model: str = Field(
        "",
        description="Small model of the same vocabulary that guesses ahead for the chat model, a name or a "
        "path; never changes an answer; empty = none",
    )
    mmproj: Path | None = Field(
        None,
        description="Projector file (mmproj-*.gguf) with which the chat model, a GGUF file, reads images; "
        "default: the one that lies beside it",
    )
    step_ms: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest engine step in ms while answers are generated; prompts are read in pieces",
    )
    max_embedding_inputs: int = Field(
        2048, ge=1, description="Texts that one request may embed or rank; more are refused with 400"
    )
    embedding_queue: int = Field(
        8192, ge=1, description="Texts that may wait to be embedded; more are refused with 429"
    )
    max_body_bytes: Bytes = Field(
        0,
        ge=0,
        description="Largest request body in bytes, such as 4M; more is refused with 413; "
        "0 or auto = 4M, or 20M where a model reads images",
    )
    max_images: int = Field(
        16, ge=0, description="Images that one request may hold; 0 = none, and no model's eyes are loaded"
    )
    max_image_pixels: int = Field(
        1 << 25, ge=1, le=MOST_PIXELS, description="Pixels that one image may have; more are refused with 400"
    )
    strict_model_names: bool = Field(
        False, description="Refuse unknown model names with 404 instead of answering with the default model"
    )
    strict_parameters: bool = Field(
        False, description="Refuse unknown request fields with 400 instead of listing them in a header"
    )
    api_key: Listed = Field(
        (),
        repr=False,
        description="Key that clients must send; repeatable (in the variable: separated by commas)",
    )
    api_key_file: Path | None = Field(None, description="File with one key a line; # starts a comment")
    allowed_origins: Names = Field(
        (),
        description="Web pages that may use this server from a browser, by their origin, such as "
        "https://app.example, or * for all; those of this machine may; repeatable, or separated by commas",
    )
    playground: bool = Field(True, description="Show browsers a page to chat on at /")
    heartbeat_s: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds of silence after which a stream gets a comment line",
    )
    drain_s: float = Field(
        30.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that running requests get when the server stops or their model is unloaded",
    )
    cache_dir: Path | None = Field(
        None, description="Where models are kept; default: $LLM_SERVING_CACHE or ~/.cache/llm-serving"
    )
    packed_cache: Bytes = Field(
        8 << 30,
        ge=0,
        description="Bound in bytes for packed weights on disk, for a fast next start; 0 = keep none",
    )
    prefix_cache_dir: Path | None = Field(
        None,
        description="Directory where computed prompts are kept for the next start; default: in memory only",
    )
    prefix_cache_disk: Bytes = Field(
        4 << 30,
        ge=0,
        description="Bound in bytes for --prefix-cache-dir, over all models and servers; 0 = keep none",
    )
    files_dir: Path | None = Field(
        None,
        description="Directory where uploaded files and results of batches are kept, and batches go on "
        "after a restart; default: a temporary one",
    )
    files_bytes: Bytes = Field(
        1 << 30, ge=0, description="Bound in bytes for uploaded files and results of batches; 0 = take none"
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?$",
        description="Collector that gets OpenTelemetry traces, such as http://localhost:4318; "
        "default: what OTEL_EXPORTER_OTLP_ENDPOINT says, or none",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="How much is logged: debug, info, warning, error"
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None
        if not self.model_name and (self.further_models or self.lora or not self.encoders):
            raise SettingsError(f"{flag_name('model_name')}: name one; without it there are encoders alone")

    @property
    def encoders(self) -> list[str]:
        """The models that do not chat, as far as there are any."""
        return [name for name in (self.embedding_model, self.reranker_model, self.classifier_model) if name]

    @property
    def guessing_model(self) -> str:
        """The draft model; empty if there is none, or nobody is to guess."""
        return self.draft_model if self.speculation != "off" else ""

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("max_body_bytes")
    @classmethod
    def _takes_some(cls, limit: int) -> int:
        if 0 < limit < 1024:
            raise ValueError("must be 1024 at least, or 0")
        return limit

    @field_validator("draft_model", "mmproj")
    @classmethod
    def _of_the_native_engine(cls, name: str | Path | None, info: ValidationInfo) -> str | Path | None:
        engine = info.data.get("engine", "auto")
        if name and engine not in ("auto", "native"):
            raise ValueError(f"the {engine} engine takes none; use the native engine, or leave it out")
        return name

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9_.:-]+/?", origin):
                raise ValueError("must be * or origins, such as https://app.example or http://10.0.0.5:3000")
        return origins

    @field_validator("api_key")
    @classmethod
    def _no_blank_key(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(not key.strip() for key in keys):
            raise ValueError("must not be blank")
        return keys


def _explain(error: ValidationError) -> str:
    """One line for all wrong settings; values are left out, they may be secrets."""
    parts = []
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        field = str(item["loc"][0]) if item["loc"] else "settings"
        message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
        if field in Settings.model_fields:
            parts.append(f"{flag_name(field)} ({env_name(field)}): {message[0].lower()}{message[1:]}")
        else:
            parts.append(f"there is no setting '{field}'")
    return "; ".join(parts)
