"""How a model on the Hugging Face hub is called: its repository, which of its files, at which revision."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = re.compile(r"(?:hf://|(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/)")
_WORD = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(
    rf"(?P<repository>{_WORD}/{_WORD})(?:/(?P<file>[^:@]+\.gguf)|:(?P<which>[^:@]+))?(?:@(?P<revision>[^:@]+))?"
)
_PAGE = re.compile(rf"({_WORD}/{_WORD})/(?:blob|resolve|tree)/([^/]+)(?:/(.+))?")


@dataclass(frozen=True, slots=True)
class HubName:
    """`owner/model`, `owner/model:Q4_K_M`, `owner/model:file.gguf`, each with `@revision` or without."""

    repository: str
    which: str = ""  # of several GGUF models: the end of a file's name, or the file
    revision: str | None = None  # a branch, tag or commit; None is the default branch

    def __str__(self) -> str:
        which = f":{self.which}" if self.which else ""
        return f"{self.repository}{which}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(name: str) -> HubName | None:
    """Also of addresses of the hub (`hf.co/owner/model`, a page of one file), and `owner/model/file.gguf`.

    None for what cannot be a name there: `owner/model.gguf` is a path that does not exist.
    """
    prefix = _PREFIX.match(name)
    rest = name[prefix.end() :].split("?")[0].rstrip("/") if prefix else name
    page = _PAGE.fullmatch(rest) if prefix else None
    if page is not None:
        repository, revision, file = page.groups()
        return HubName(repository, file or "", None if revision == "main" else revision)
    match = _NAME.fullmatch(rest)
    if match is None or (match["repository"].endswith(".gguf") and not prefix):
        return None
    return HubName(match["repository"], match["file"] or match["which"] or "", match["revision"])
