"""Files of the hub by its own library, which keeps each that is complete and begins the others anew."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from llm_serving.models.hub_name import HubName
from llm_serving.models.hub_progress import reporting_bars
from llm_serving.models.spec import OnProgress

_UNWANTED = ["onnx/*", "openvino/*", "original/*", "*/onnx/*"]
_GIVE_UP_S = 2.0  # for the library's threads to notice, and to remove what they have begun
_ABANDONED_S = 600.0  # nobody writes to a file that has not grown for so long


def download(name: HubName, wanted: list[str], on_progress: OnProgress) -> Path:
    """The folder of the name's revision, with its files that fit the patterns `wanted`. Blocks.

    Ctrl-C ends it at once: the library works on a thread of its own, because it waits for its downloads
    to end where it is interrupted itself. Raises: whatever the library does.
    """
    given_up = threading.Event()
    outcome: Future[str] = Future()

    def run() -> None:
        import huggingface_hub

        try:
            outcome.set_result(
                huggingface_hub.snapshot_download(
                    name.repository,
                    revision=name.revision,
                    allow_patterns=wanted,
                    ignore_patterns=_UNWANTED,
                    tqdm_class=reporting_bars(on_progress, given_up),
                )
            )
        except BaseException as error:  # it is the thread's only way to tell
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="hub", daemon=True)
    thread.start()
    try:
        snapshot = Path(outcome.result())
    except KeyboardInterrupt:
        given_up.set()
        thread.join(_GIVE_UP_S)
        raise
    remove_leftovers(snapshot.parents[1] / "blobs")
    return snapshot


def remove_leftovers(blobs: Path) -> None:
    """What processes that were killed had fetched of files that are complete by now; the library keeps it."""
    for file in blobs.glob("*.incomplete"):
        with contextlib.suppress(OSError):
            is_here = (blobs / file.name.partition(".")[0]).exists()
            if is_here and time.time() - file.stat().st_mtime > _ABANDONED_S:
                file.unlink()
