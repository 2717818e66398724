"""What stands before and behind a place in a file, and other files → the prompt of what goes there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_serving.errors import InvalidRequest
from llm_serving.service.model import ChatModel

_REPOSITORY, _FILE = "project", "file"  # nobody says what they are called


@dataclass(frozen=True, slots=True)
class Infill:
    """`begun` is what of the line stands before the place already. Files are (name, text), the most important
    last."""

    before: str
    behind: str
    begun: str = ""
    files: Sequence[tuple[str, str]] = ()


def infill_ids(model: ChatModel, infill: Infill, num_wanted: int) -> list[int]:
    """Token ids; texts are read without special tokens. Where files and `num_wanted` tokens do not fit the
    context together, what comes first of the files is left out.

    Where a model knows tokens for them, files stand each behind its name, else before all in one text.
    Raises: InvalidRequest for a model that cannot fill in.
    """
    tokenizer, fill_in = model.tokenizer, model.tokenizer.fill_in
    if fill_in is None:
        raise InvalidRequest(
            f"The model '{model.name}' has no tokens for filling in. "
            "Serve one that has, such as Qwen2.5 Coder.",
            "model",
        )
    # One text with what is before: there llama.cpp puts it, too. Behind `middle`, as its manual says, models
    # go on as if a word that is half written were a whole one.
    before = tokenizer.encode_prompt(tokenizer.guard(infill.before + infill.begun))
    ids = fill_in.prompt(before, tokenizer.encode_behind(infill.behind))
    if not infill.files:
        return ids
    if fill_in.files is None:
        beside = tokenizer.encode("\n".join(text for _, text in infill.files))
    else:
        repository, file = fill_in.files
        beside = [repository, *tokenizer.encode_behind(f"{_REPOSITORY}\n")]
        for name, text in infill.files:
            beside += [file, *tokenizer.encode_behind(f"{name}\n{text}")]
        beside += [file, *tokenizer.encode_behind(f"{_FILE}\n")]
    head = 1 if ids[:1] == [fill_in.bos_id] else 0
    room = max(0, model.engine.max_context - len(ids) - num_wanted)
    return [*ids[:head], *(beside[-room:] if room else []), *ids[head:]]
