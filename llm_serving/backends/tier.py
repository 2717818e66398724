"""A place for a runner's KV blocks on disk, where the options name one."""

from __future__ import annotations

from llm_serving.blockstore.store import DiskBlockStore
from llm_serving.engine.protocol import BlockMemory, EngineOptions
from llm_serving.engine.tier import BlockTier


def open_tier(memory: BlockMemory, model: bytes, options: EngineOptions) -> BlockTier | None:
    """`model`, 16 bytes, differs whenever the same tokens could give other blocks."""
    if options.prefix_dir is None or not options.prefix_bytes:
        return None
    directory = options.prefix_dir.expanduser().absolute()
    return BlockTier(memory, DiskBlockStore(directory, options.prefix_bytes, model, memory.block_bytes))
