from __future__ import annotations

import pytest

from llm_serving.engine.blocks import BlockPool, extend_chain


def chain(token_ids: list[int], block_size: int = 2) -> list[bytes]:
    digests: list[bytes] = []
    extend_chain(digests, token_ids, block_size, len(token_ids) // block_size)
    return digests


def take(pool: BlockPool, count: int) -> list[int]:
    blocks = [pool.allocate() for _ in range(count)]
    assert None not in blocks
    return blocks  # type: ignore[return-value]


def publish(pool: BlockPool, blocks: list[int], digests: list[bytes]) -> None:
    for block, digest in zip(blocks, digests, strict=True):
        pool.publish(block, digest)


def test_a_digest_names_its_block_and_all_before_it():
    a, b = chain([1, 2, 3, 4]), chain([9, 2, 3, 4])
    assert len(a) == 2
    assert a[1] != b[1], "same tokens behind another prefix"
    assert chain([1, 2, 3, 4, 5])[:2] == a, "a partial block has no digest and changes nothing"
    assert chain([3, 4])[0] != a[1]
    assert len({*chain(list(range(2000)))}) == 1000


def test_a_chain_grows_from_where_it_is():
    digests = chain([1, 2, 3, 4])
    extend_chain(digests, [1, 2, 3, 4, 5, 6], 2, 3)
    assert digests == chain([1, 2, 3, 4, 5, 6])


def test_allocates_every_block_once_then_none():
    pool = BlockPool(3)
    blocks = take(pool, 3)
    assert sorted(blocks) == [0, 1, 2]
    assert pool.allocate() is None
    assert pool.num_free == 0
    pool.check_integrity([blocks])
    pool.release(blocks)
    assert pool.num_free == 3
    pool.check_integrity([])


def test_a_published_block_is_found_while_held_and_after():
    pool = BlockPool(4)
    digests = chain([1, 2])
    (block,) = take(pool, 1)
    assert pool.find(digests[0]) is None
    pool.publish(block, digests[0])
    assert pool.find(digests[0]) == block
    pool.acquire(block)
    pool.check_integrity([[block], [block]])
    pool.release([block])
    assert pool.is_held(block)
    pool.release([block])
    assert not pool.is_held(block)
    assert pool.find(digests[0]) == block
    pool.acquire(block)
    pool.check_integrity([[block]])


def test_evicts_unpublished_first_then_the_least_recently_used_tail_first():
    pool = BlockPool(5)
    old, young = chain([1, 2, 3, 4]), chain([5, 6])
    old_blocks, young_blocks = take(pool, 2), take(pool, 1)
    publish(pool, old_blocks, old)
    publish(pool, young_blocks, young)
    pool.release(old_blocks)
    pool.release(young_blocks)
    assert pool.num_free == 5
    take(pool, 2)
    assert all(pool.find(digest) is not None for digest in old + young), "free blocks go first"
    take(pool, 1)
    assert pool.find(old[1]) is None, "the oldest sequence's tail"
    assert pool.find(old[0]) is not None
    take(pool, 1)
    assert pool.find(old[0]) is None
    assert pool.find(young[0]) is not None
    take(pool, 1)
    assert pool.allocate() is None


def test_use_makes_young_again():
    pool = BlockPool(2)
    first, second = chain([1, 2]), chain([3, 4])
    blocks = take(pool, 2)
    publish(pool, blocks, first + second)
    pool.release([blocks[0]])
    pool.release([blocks[1]])
    pool.acquire(blocks[0])
    pool.release([blocks[0]])
    take(pool, 1)
    assert pool.find(second[0]) is None
    assert pool.find(first[0]) == blocks[0]


def test_two_blocks_of_equal_content_are_one_in_the_cache():
    pool = BlockPool(3)
    digests = chain([1, 2])
    a, b = take(pool, 2)
    publish(pool, [a], digests)
    publish(pool, [b], digests)
    assert pool.find(digests[0]) == a
    pool.check_integrity([[a], [b]])
    pool.release([b])
    assert pool.allocate() == b, "the copy is free at once"


def test_claims_belong_to_the_first_and_end_with_the_content():
    pool = BlockPool(3)
    one, two = chain([1, 2, 3, 4])
    a, b = object(), object()
    pool.claim(one, a)
    pool.claim(one, b)
    pool.claim(two, b)
    assert pool.claimant(one) is a
    assert pool.num_claims == 2
    pool.withdraw([one, two], a)
    assert pool.claimant(one) is None
    assert pool.claimant(two) is b
    (block,) = take(pool, 1)
    pool.publish(block, two)
    assert pool.claimant(two) is None
    pool.claim(two, a)
    assert pool.claimant(two) is None, "what is there needs no claim"
    pool.check_integrity([[block]])


@pytest.mark.parametrize("tables", [[], [[0, 0]], [[0], [0]], [[1]]])
def test_integrity_check_sees_wrong_tables(tables: list[list[int]]):
    pool = BlockPool(2)
    assert take(pool, 1) == [0]
    with pytest.raises(AssertionError):
        pool.check_integrity(tables)
