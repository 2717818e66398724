"""What the hub's library would draw as bars, told as progress."""

from __future__ import annotations

import io
from typing import Any

from llm_serving.models.spec import OnProgress, Progress


def reporting_bars(on_progress: OnProgress) -> type[Any]:
    """A class for `tqdm_class` of `snapshot_download`. Nothing is drawn.

    The first bar that counts bytes is told, ten times a second at most, on the thread that fetches. Versions
    of the library that have none for all files together draw a bar a file, by themselves.
    """
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        first: Bar | None = None

        def __init__(self, *args: Any, **options: Any) -> None:
            if options.get("unit") == "B" and Bar.first is None:
                Bar.first = self
            options.pop("name", None)
            super().__init__(*args, **(options | {"file": io.StringIO(), "disable": False}))

        def display(self, *_args: Any, **_options: Any) -> bool:
            if self is Bar.first and self.total:
                on_progress(Progress(min(int(self.n), int(self.total)), int(self.total), "downloading"))
            return True

    return Bar
