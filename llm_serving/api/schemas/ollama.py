"""Ollama's API: what its requests may say. null means: not given."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from llm_serving.api.schemas.chat import MAX_MESSAGES
from llm_serving.api.schemas.sampling import MAX_LOGPROBS, MAX_STOPS, Stop
from llm_serving.chat.reasoning import Effort

_STRICT = ConfigDict(strict=True, extra="allow", protected_namespaces=())
_DURATION = re.compile(r"-?\d{1,12}|-?(\d{1,12}(\.\d{1,12})?(ns|us|µs|ms|s|m|h)){1,8}")
_INT32 = 2**31 - 1


def _duration(value: Any) -> Any:
    is_text = isinstance(value, str) and _DURATION.fullmatch(value)
    if value is None or type(value) in (int, float) or is_text:
        return value
    raise ValueError('must be a number of seconds, or a duration such as "5m".')


def _think(value: Any) -> Any:
    if value is None or isinstance(value, bool) or value in get_args(Effort):
        return value
    raise ValueError(f"must be true, false, or one of {', '.join(get_args(Effort))}.")


class OllamaOptions(BaseModel):
    """How to choose tokens, then how a runner is to be started, which was decided with the server.

    Of the latter, `num_ctx` is held against the context that is served; others change no answer.
    """

    model_config = _STRICT

    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=_INT32)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    typical_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    num_predict: int | None = Field(None, ge=-2, le=_INT32)
    stop: Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    repeat_penalty: float | None = Field(None, ge=0.01, le=10, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)

    num_ctx: int | None = Field(None, ge=1, le=_INT32)
    num_keep: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    main_gpu: int | None = None
    num_thread: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    low_vram: bool | None = None
    f16_kv: bool | None = None
    logits_all: bool | None = None
    numa: bool | None = None
    mirostat_tau: float | None = None  # of `mirostat`, which is never on
    mirostat_eta: float | None = None


class OllamaFields(BaseModel):
    """What all requests to a model have."""

    model_config = _STRICT

    model: str | None = Field(None, max_length=512)
    options: OllamaOptions | None = None
    keep_alive: Annotated[str | float | None, PlainValidator(_duration)] = None

    def asked_options(self) -> OllamaOptions:
        """As given, or none of them."""
        return self.options or OllamaOptions.model_validate({})

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know, by dotted path."""
        extra = self.asked_options().model_extra or {}
        return {**(self.model_extra or {}), **{f"options.{name}": value for name, value in extra.items()}}

    def asks_to_unload(self) -> bool:
        """Whether `keep_alive` is no time at all."""
        return self.keep_alive is not None and not re.search("[1-9]", str(self.keep_alive))


class OllamaGeneration(OllamaFields):
    """What `/api/chat` and `/api/generate` call alike."""

    stream: bool | None = None
    think: Annotated[bool | Effort | None, PlainValidator(_think)] = None
    format: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    def is_empty(self) -> bool:
        """Whether there is nothing to answer: the model is waited for."""
        raise NotImplementedError


class OllamaChatRequest(OllamaGeneration):
    """Messages are looked at one by one, see `convert/ollama_input.py`."""

    messages: list[Any] | None = Field(None, max_length=MAX_MESSAGES)
    tools: list[Any] | None = None
    truncate: bool | None = None

    def is_empty(self) -> bool:
        return not self.messages


class OllamaGenerateRequest(OllamaGeneration):
    """A prompt for the chat template; with `raw` or a `suffix` for none."""

    prompt: str | None = None
    images: list[Any] | None = None
    system: str | None = None
    suffix: str | None = None
    raw: bool | None = None

    def is_empty(self) -> bool:
        return not self.prompt and not self.images


class OllamaEmbedRequest(OllamaFields):
    """Texts to embed."""

    input: str | list[Any] | None = None
    truncate: bool | None = None
    dimensions: int | None = Field(None, ge=1)


class OllamaEmbeddingsRequest(OllamaFields):
    """The older way, for one text."""

    prompt: str | None = None


class OllamaModelRequest(BaseModel):
    """Which model; `name` is what the field was called before."""

    model_config = _STRICT

    model: str | None = Field(None, max_length=512)
    name: str | None = Field(None, max_length=512)


class OllamaPullRequest(OllamaModelRequest):
    """What is served is here already, wherever it was to come from."""

    insecure: bool | None = None
    stream: bool | None = None
