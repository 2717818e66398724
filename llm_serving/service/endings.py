"""What ends an answer beside its length: the model's own ends, and what a request names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llm_serving.errors import InvalidRequest
from llm_serving.service.model import ChatModel


@dataclass(frozen=True, slots=True)
class Endings:
    """`ids` end an answer. `names`: of those that are a stop string's one token, which adds no text."""

    ids: frozenset[int]
    names: Mapping[int, str]


def endings_of(
    model: ChatModel,
    stops: tuple[str, ...],
    stop_ids: frozenset[int],
    own_ends: frozenset[int],
    *,
    ignore_eos: bool,
) -> Endings:
    """`own_ends` are as good as the model's own: both are gone with `ignore_eos`, what a request names stays.

    A special token has no text in which a stop string could be found, and whoever stops at its name means it.
    Raises: InvalidRequest for an id that the model does not have.
    """
    vocab_size, tokenizer = model.engine.vocab_size, model.tokenizer
    foreign = next((i for i in sorted(stop_ids) if i >= vocab_size), None)
    if foreign is not None:
        raise InvalidRequest(
            f"'stop_token_ids' has {foreign}; the token ids of '{model.name}' are 0 to {vocab_size - 1}.",
            "stop_token_ids",
        )
    ends = () if ignore_eos else (*tokenizer.eos_ids, *own_ends)
    own = frozenset(i for i in ends if i < vocab_size)
    ids = {text: tokenizer.prompt_ids.get(text, vocab_size) for text in stops}
    names = {
        i: text for text, i in ids.items() if i < vocab_size and i not in own and not tokenizer.token_bytes[i]
    }
    return Endings(own | stop_ids | names.keys(), names)
