"""What the garbage collector and the allocator hear of models that come and go."""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys


def set_aside_what_stays() -> None:
    """Take all objects there are, less garbage, out of the garbage collector's sight.

    A model, its tokenizer and the modules stay as long as they are loaded; going through them stopped every
    answer for some 60 ms, once in a few seconds under load. What was set aside before is left there.
    """
    gc.collect()
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)  # or extensions list all that Python has not freed when it ends


def give_memory_back() -> None:
    """Free what was set aside for a model that has gone: goes through everything once.

    glibc keeps what is free in the middle of its arenas, half of what a small model took, until it is asked.
    """
    gc.unfreeze()
    set_aside_what_stays()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
