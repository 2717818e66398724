"""A directory's tokenizer.json with what stands beside it: which tokens have a meaning, the chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from llm_serving.checkpoints.directory_tokenizer import DirectoryTokenizer, NamedTokens
from llm_serving.checkpoints.jinja_file import read_jinja_template
from llm_serving.checkpoints.json_files import read_object
from llm_serving.checkpoints.tokenizer_files import MAX_TOKENIZER_BYTES
from llm_serving.checkpoints.tokenizer_library import no_panic, try_out
from llm_serving.errors import CheckpointError

_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


def tokenizer_json(directory: Path) -> Path:
    """Raises: CheckpointError when it is not there: other files say too little without their own code."""
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: there is no tokenizer.json. Write it with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        )
    return path


def read_directory_tokenizer(directory: Path) -> DirectoryTokenizer:
    """A generating model's tokenizer. Raises: CheckpointError, naming the file and what is wrong with it."""
    path = tokenizer_json(directory)
    with no_panic(f"{path}: this is no tokenizer"):
        if path.stat().st_size > MAX_TOKENIZER_BYTES:
            raise CheckpointError(f"{path}: has over {MAX_TOKENIZER_BYTES} bytes, which is no tokenizer.")
        backend = Backend.from_file(str(path))
        backend.no_truncation()
        backend.no_padding()
        try_out(str(path), backend)
        files = ("special_tokens_map.json", "tokenizer_config.json")  # the later one is believed
        config = {key: value for name in files for key, value in _object(directory / name).items()}
        named = _named(directory, config, backend)
        return DirectoryTokenizer(json.loads(backend.to_str()), named, read_jinja_template(directory))


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _named(directory: Path, config: dict[str, Any], backend: Backend) -> NamedTokens:
    tokens = {name: _content(config.get(f"{name}_token")) for name in _NAMES}
    ids = {name: None if token is None else backend.token_to_id(token) for name, token in tokens.items()}
    more = [_content(each) for key in _LISTS if isinstance(config.get(key), list) for each in config[key]]
    found = {*ids.values(), *(backend.token_to_id(token) for token in more if token is not None)}
    found |= {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
    bos, eos = ids["bos"], ids["eos"]
    adds_bos = config.get("add_bos_token")
    if not isinstance(adds_bos, bool):
        adds_bos = backend.encode("a").ids[:1] == [bos]
    return NamedTokens(
        bos=bos,
        eos=eos,
        unknown=ids["unk"],
        ends=frozenset([*_ends(directory), *([] if eos is None else [eos])]),
        all_ids=frozenset(i for i in found if i is not None),
        adds_bos=adds_bos and bos is not None,
    )


def _content(token: Any) -> str | None:
    """A token is its text, or an object with that as `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _ends(directory: Path) -> list[int]:
    """The tokens that end an answer, by `generation_config.json` or else by `config.json`."""
    for name in ("generation_config.json", "config.json"):
        ends = _object(directory / name).get("eos_token_id")
        if ends is None:
            continue
        ids = ends if isinstance(ends, list) else [ends]
        if not all(type(i) is int and i >= 0 for i in ids):
            raise CheckpointError(
                f"{directory / name}: 'eos_token_id' is neither a token's number nor a list."
            )
        return ids
    return []
