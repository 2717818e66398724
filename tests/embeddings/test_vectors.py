"""Cutting, normalising and comparing embeddings."""

from __future__ import annotations

import numpy as np
import pytest

from llm_serving.embeddings.vectors import cosines, shorten, unit

VECTORS = np.random.default_rng(3).standard_normal((5, 16)).astype(np.float32)


@pytest.mark.parametrize("dimensions", [1, 7, 15])
def test_shortened_vectors_have_length_one_and_keep_their_direction(dimensions: int) -> None:
    short = shorten(VECTORS, dimensions)
    assert short.shape == (5, dimensions)
    assert short.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(cosines(short, VECTORS[:, :dimensions]), 1, atol=1e-6)


def test_all_dimensions_are_the_vector_itself() -> None:
    assert shorten(VECTORS, 16) is VECTORS


def test_zeros_stay_zeros_and_are_like_nothing() -> None:
    zeros = np.zeros((2, 4), np.float32)
    assert not unit(zeros).any()
    assert not cosines(zeros, VECTORS[:2, :4]).any()


def test_extreme_lengths_do_not_overflow() -> None:
    vectors = np.array([[3e38, 3e38], [1e-38, 0]], np.float32)
    np.testing.assert_allclose(np.linalg.norm(unit(vectors), axis=1), 1, atol=1e-6)


def test_one_row_against_many() -> None:
    expected = [1.0, *(float(unit(VECTORS[:1])[0] @ unit(VECTORS[i : i + 1])[0]) for i in range(1, 5))]
    np.testing.assert_allclose(cosines(VECTORS[:1], VECTORS), expected, atol=1e-6)
