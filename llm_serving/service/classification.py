"""Classification: texts or pairs of texts in, a probability of each class out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llm_serving.checkpoints import Classes
from llm_serving.embeddings.activations import activate
from llm_serving.embeddings.encoder import EncoderInput
from llm_serving.service.encoding import (
    LOADING_WAIT_S,
    NameOf,
    check_not_empty,
    encode,
    pair_inputs,
    text_inputs,
    token_inputs,
)
from llm_serving.service.model import EncoderModel
from llm_serving.service.registry import Registry

Text = tuple[str] | tuple[str, str]  # alone, or with a second one: a premise and a hypothesis


@dataclass(frozen=True, slots=True)
class ClassificationRequest:
    """What to classify. `texts` are read unless there are `token_arrays`; `name_of` tells their fields."""

    texts: Sequence[Text] = ()
    token_arrays: Sequence[list[int]] = ()
    name_of: NameOf = "input.{}".format
    model: str | None = None
    truncate_to: int | None = None  # tokens; -1 = what the model takes
    raw: bool = False  # logits as they are


@dataclass(frozen=True, slots=True)
class Classified:
    """float64 [texts, classes]: probabilities, or logits where these were asked for."""

    model: EncoderModel
    classes: Classes
    values: np.ndarray
    num_tokens: int


class ClassificationService:
    """Classes from the models of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def classify(self, request: ClassificationRequest) -> Classified:
        """One row a text, in the order of the request. Raises: what `EmbeddingService.embed` raises."""
        slot = self._registry.find_classifier(request.model)
        with slot.used():
            model = await slot.ask(LOADING_WAIT_S)
            assert model.classes is not None  # its loader saw to that
            num_texts = len(request.token_arrays) or len(request.texts)
            num_chars = sum(len(part) for text in request.texts for part in text)
            encoded = await encode(slot, model, num_texts, num_chars, lambda: _inputs(model, request))
            activation = "identity" if request.raw else model.classes.activation
            values = activate(encoded.rows.astype(np.float64), activation)
            return Classified(model, model.classes, values, encoded.num_tokens)


def _inputs(model: EncoderModel, request: ClassificationRequest) -> list[EncoderInput]:
    texts, name_of, cut = request.texts, request.name_of, request.truncate_to
    if request.token_arrays:
        return token_inputs(model, request.token_arrays, name_of, cut)
    for part in (0, -1):
        check_not_empty([text[part] for text in texts], name_of)
    alone = [i for i, text in enumerate(texts) if len(text) == 1]
    pairs = [i for i, text in enumerate(texts) if len(text) == 2]
    firsts, seconds = [texts[i][0] for i in pairs], [texts[i][-1] for i in pairs]
    inputs = [
        *text_inputs(model, [texts[i][0] for i in alone], lambda k: name_of(alone[k]), cut),
        *pair_inputs(model, firsts, seconds, lambda k: name_of(pairs[k]), cut),
    ]
    found = dict(zip([*alone, *pairs], inputs, strict=True))
    return [found[i] for i in range(len(texts))]
