"""Fields that every generating endpoint shares. Strict: no booleans as numbers, no numbers in strings."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_PRIORITY = 1000
MAX_LOGPROBS = 20
MAX_REGEX = 4096
MAX_GRAMMAR = 65536
MAX_CHOICE = 1024
MAX_BIASES = 1024
MAX_STOP_IDS = 128


class ToldUsage(Enum):
    """When a stream tells its usage: also so far, with every chunk, or at its end alone."""

    NEVER = 0
    AT_THE_END = 1
    ALWAYS = 2


class StreamOptions(BaseModel):
    """What a stream says beside the text."""

    model_config = ConfigDict(strict=True, extra="allow")

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


def _stops(value: object) -> object:
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError(f"must be a string or a list of up to {MAX_STOPS} strings.")
    return value


def _biases(value: object) -> object:
    """JSON has texts as keys; these are token ids."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(str(key).isascii() and str(key).isdigit() for key in value):
        raise ValueError('must be an object whose names are token ids, such as {"50256": -100}.')
    if len(value) > MAX_BIASES:
        raise ValueError(f"has {len(value)} token ids; {MAX_BIASES} are possible.")
    return {min(int(key), 2**62) if len(key) < 19 else 2**62: bias for key, bias in value.items()}


def _schema(value: object) -> object:
    if value is None or isinstance(value, (dict, str)):
        return value
    raise ValueError("must be a JSON schema: an object, or the text of one.")


Schema = Annotated[dict[str, Any] | str | None, PlainValidator(_schema)]
Choices = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_REGEX)]],
    Field(min_length=1, max_length=MAX_CHOICE),
]


class StructuredOutputs(BaseModel):
    """vLLM's: one of them says what the answer looks like."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    json_schema: Schema = Field(None, alias="json")
    json_object: bool | None = None
    regex: str | None = Field(None, min_length=1, max_length=MAX_REGEX)
    grammar: str | None = Field(None, min_length=1, max_length=MAX_GRAMMAR)
    choice: Choices | None = None


Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class DecodingFields(BaseModel):
    """How the next token is chosen, and who asks, in every API that generates.

    null means: not given. Unknown fields are kept in `model_extra`, for the caller to judge.
    """

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str | None = Field(None, max_length=512)
    stream: bool | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    typical_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Annotated[list[Stop], BeforeValidator(_stops), Field(max_length=MAX_STOPS)] = []
    ignore_eos: bool | None = None
    priority: int | None = Field(None, ge=-MAX_PRIORITY, le=MAX_PRIORITY)
    user: str | None = Field(None, max_length=512)
    logit_bias: Annotated[dict[int, Bias], BeforeValidator(_biases), Field(max_length=MAX_BIASES)] = {}

    regex: str | None = Field(None, min_length=1, max_length=MAX_REGEX)
    grammar: str | None = Field(None, min_length=1, max_length=MAX_GRAMMAR)
    choice: Choices | None = None


class SamplingFields(DecodingFields):
    """What `/chat/completions` and `/completions` call alike."""

    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: int | None = Field(None, ge=1)
    response_format: dict[str, Any] | None = None  # see `convert/form.py`
    # As other servers call them: llama.cpp, vLLM.
    n_predict: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_tokens: int | None = Field(None, ge=0, le=2**31 - 1)
    stop_token_ids: list[Annotated[int, Field(ge=0, le=2**31 - 1)]] | None = Field(
        None, max_length=MAX_STOP_IDS
    )
    json_schema: dict[str, Any] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema = None
    guided_regex: str | None = Field(None, min_length=1, max_length=MAX_REGEX)
    guided_grammar: str | None = Field(None, min_length=1, max_length=MAX_GRAMMAR)
    guided_choice: Choices | None = None

    def limit(self) -> int | None:
        """The most tokens of an answer, if it says so; 0 only has the prompt read."""
        if self.max_tokens is not None or self.n_predict == -1:
            return self.max_tokens
        return self.n_predict

    def told_usage(self) -> ToldUsage:
        options = self.stream_options
        if options is None or not options.include_usage:
            return ToldUsage.NEVER
        return ToldUsage.ALWAYS if options.continuous_usage_stats else ToldUsage.AT_THE_END

    def unknown_fields(self) -> dict[str, Any]:
        """What this schema does not know, by dotted path."""
        found = dict(self.model_extra or {})
        for part in ("stream_options", "structured_outputs"):
            if (value := getattr(self, part)) is not None:
                found.update({f"{part}.{name}": value for name, value in (value.model_extra or {}).items()})
        return found
