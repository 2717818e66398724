"""Locally typical sampling keeps the tokens that transformers' warper keeps."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch; run it with: make parity")

from transformers import TypicalLogitsWarper  # noqa: E402

from llm_serving.engine import sampler  # noqa: E402
from llm_serving.engine.protocol import SamplingRow  # noqa: E402
from llm_serving.engine.request import SamplingParams  # noqa: E402

pytestmark = pytest.mark.parity

DRAWS = 600  # so close that none falls beside a token that is left: their least probability is above 1/600


@pytest.mark.parametrize("mass", [0.05, 0.3, 0.6, 0.95])
def test_the_same_tokens_are_left(mass: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "uniform", lambda _seed, position: (position + 0.5) / DRAWS)
    rng = np.random.default_rng(6)
    rows = [SamplingRow(SamplingParams(1, typical_p=mass), i, [], []) for i in range(DRAWS)]
    most_likely = 0
    for _ in range(20):
        logits = rng.normal(0, 0.8, 30).astype(np.float32)
        left = TypicalLogitsWarper(mass)(torch.empty(1, 0), torch.from_numpy(logits)[None])[0]
        expected = set(torch.isfinite(left).nonzero()[:, 0].tolist())
        assert float(torch.softmax(left, -1)[sorted(expected)].min()) > 1 / DRAWS
        assert set(sampler.NumpySampler().sample(np.tile(logits, (DRAWS, 1)), rows)) == expected
        most_likely += int(logits.argmax()) in expected
    assert (most_likely < 20) == (mass < 0.95)  # small masses leave out the likeliest token, top-p never does
