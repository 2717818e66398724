"""What the hub's library would draw as bars, told as progress."""

from __future__ import annotations

import io
import threading
from typing import Any

from llm_serving.models.spec import OnProgress, Progress


class GivenUp(Exception):
    """Nobody waits for the files any more."""


def reporting_bars(on_progress: OnProgress, given_up: threading.Event) -> type[Any]:
    """A class for `tqdm_class` of `snapshot_download`. Nothing is drawn.

    The first bar that counts bytes is told, ten times a second at most, on the thread that fetches. Versions
    of the library that have none for all files together draw a bar a file, by themselves. Once `given_up`
    is set, whoever tells a bar of more bytes gets GivenUp.
    """
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        first: Bar | None = None

        def __init__(self, *args: Any, **options: Any) -> None:
            if options.get("unit") == "B" and Bar.first is None:
                Bar.first = self
            options.pop("name", None)
            super().__init__(*args, **(options | {"file": io.StringIO(), "disable": False}))

        def update(self, n: float | None = 1) -> bool | None:
            if given_up.is_set():
                raise GivenUp
            drawn: bool | None = super().update(n)
            return drawn

        def display(self, *_args: Any, **_options: Any) -> bool:
            if self is Bar.first and self.total:
                on_progress(Progress(min(int(self.n), int(self.total)), int(self.total), "downloading"))
            return True

    return Bar
