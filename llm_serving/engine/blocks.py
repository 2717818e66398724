"""The pool of KV blocks: reference counts, a prefix cache over full blocks, LRU eviction.

Only ids live here; the runner owns the memory. Engine thread only.
A block is in exactly one of three states: held (`refs > 0`), kept (`refs == 0`, findable by its digest,
may be evicted) or free (`refs == 0`, content worthless).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b

from llm_serving.engine.request import GivenRows

_GIVEN = b"given rows"  # a domain of its own: no tokens can be made to hash as a picture


def extend_chain(
    digests: list[bytes],
    token_ids: list[int],
    block_size: int,
    num_blocks: int,
    given: Sequence[GivenRows] = (),
    root: bytes = b"",
) -> None:
    """Grow `digests` to one entry for each of the first `num_blocks` full blocks of `token_ids`.

    A digest names the tokens of its block and all before it: BLAKE2b-128 over (parent digest, int32 ids),
    so equal digests mean equal prefixes for all practical purposes, also against a hostile prompt. Where rows
    are `given` for tokens of a block, their digests and where they begin come behind the ids. The first has
    `root` for a parent: a digest of whatever else the blocks depend on, if anything.
    """
    parent = digests[-1] if digests else root
    for index in range(len(digests), num_blocks):
        tokens = array("i", token_ids[index * block_size : (index + 1) * block_size])
        content = parent + tokens.tobytes()
        rows = _named(given, index * block_size, (index + 1) * block_size) if given else b""
        if rows:
            parent = blake2b(content + rows, digest_size=16, person=_GIVEN).digest()
        else:
            parent = blake2b(content, digest_size=16).digest()
        digests.append(parent)


def _named(given: Sequence[GivenRows], begin: int, end: int) -> bytes:
    """Which rows stand at the positions from `begin` to `end`."""
    return b"".join(
        (each.start - begin).to_bytes(4, "little", signed=True) + each.digest
        for each in given
        if each.start < end and begin < each.end
    )


class BlockPool:
    """Hands out blocks 0 … num_blocks-1 and finds those whose content is already computed."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._refs = [0] * num_blocks
        self._digests: list[bytes | None] = [None] * num_blocks
        self._found: dict[bytes, int] = {}  # digest → the one block that holds this content
        self._kept: OrderedDict[int, None] = OrderedDict()  # oldest first
        self._free = list(range(num_blocks - 1, -1, -1))
        self._claims: dict[bytes, Hashable] = {}  # digest → who is about to compute this content

    @property
    def num_free(self) -> int:
        """Blocks that `allocate` could hand out now; kept ones count."""
        return len(self._free) + len(self._kept)

    @property
    def num_claims(self) -> int:
        return len(self._claims)

    def allocate(self) -> int | None:
        """A private block with `refs == 1` and no content, or None when all are held."""
        if self._free:
            block = self._free.pop()
        elif self._kept:
            block, _ = self._kept.popitem(last=False)
            digest = self._digests[block]
            if digest is not None:
                del self._found[digest]
                self._digests[block] = None
        else:
            return None
        self._refs[block] = 1
        return block

    def find(self, digest: bytes) -> int | None:
        return self._found.get(digest)

    def is_held(self, block: int) -> bool:
        return self._refs[block] > 0

    def acquire(self, block: int) -> None:
        """Hold a found block once more."""
        if self._refs[block] == 0:
            del self._kept[block]
        self._refs[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Let go of a sequence's blocks, given in order of position.

        The tail is put first in the line for eviction: a prefix is of use without its continuation, never
        the other way round.
        """
        for block in reversed(blocks):
            self._refs[block] -= 1
            if self._refs[block] == 0:
                if self._digests[block] is None:
                    self._free.append(block)
                else:
                    self._kept[block] = None

    def discard(self, digest: bytes) -> None:
        """This content is of no use any more: if nobody holds the block, it is the next to be handed out."""
        block = self._found.get(digest)
        if block is not None and self._refs[block] == 0:
            del self._kept[block], self._found[digest]
            self._digests[block] = None
            self._free.append(block)

    def publish(self, block: int, digest: bytes) -> None:
        """The block's last token is computed: from now on it can be found and shared.

        When another block has the same content that one stays findable and this one stays private.
        """
        self._claims.pop(digest, None)
        if digest not in self._found and self._digests[block] is None:
            self._found[digest] = block
            self._digests[block] = digest

    def claim(self, digest: bytes, owner: Hashable) -> None:
        """Announce that `owner` will compute this content, unless someone has or already will."""
        if digest not in self._found:
            self._claims.setdefault(digest, owner)

    def claimant(self, digest: bytes) -> Hashable | None:
        return self._claims.get(digest)

    def withdraw(self, digests: Iterable[bytes], owner: Hashable) -> None:
        """`owner` stops; whoever waited for it must compute by itself."""
        if self._claims:
            for digest in digests:
                if self._claims.get(digest) is owner:
                    del self._claims[digest]

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Compare everything with the block tables of all sequences. Raises: AssertionError."""
        refs, held = [0] * self.num_blocks, set[int]()
        for table in tables:
            held.update(table)
            for block in table:
                refs[block] += 1
        _require(refs == self._refs, "reference counts differ from the block tables")
        free, kept = set(self._free), set(self._kept)
        _require(len(free) == len(self._free), "a block is free twice")
        _require(not (free & kept or free & held or kept & held), "a block is in two states")
        _require(len(free) + len(kept) + len(held) == self.num_blocks, "a block is lost")
        digest_of = self._digests.__getitem__
        _require(not any(map(digest_of, free)), "a free block has a digest")
        _require(all(map(digest_of, kept)), "a kept block has no digest")
        is_found = list(map(digest_of, self._found.values())) == list(self._found)
        num_named = self.num_blocks - self._digests.count(None)
        _require(is_found and num_named == len(self._found), "digests and the index differ")
        _require(not (self._claims.keys() & self._found.keys()), "a computed block is still claimed")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
