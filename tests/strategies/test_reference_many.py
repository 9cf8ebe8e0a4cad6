"""The reference rules for hundreds of tokens are the slow ones."""

from __future__ import annotations

import numpy as np
import pytest
from references import greedy, many, selections


@pytest.mark.parametrize("seed", range(3))
def test_rules_for_many_tokens_are_the_slow_rules(seed: int) -> None:
    generator = np.random.default_rng(seed)
    features, quality = generator.normal(size=(40, 24)), generator.random(40)
    ranked = selections.best_first(quality, range(40))
    assert many.thinned(features, ranked, 9) == selections.thinned(features, ranked, 9)
    assert many.max_min(features, 15) == greedy.max_min(features, 15)
    assert many.dpp(features, quality, 15) == greedy.dpp_map(features, quality, 15)
    assert many.scope(features, quality, 15) == greedy.scope(features, quality, 15)
    rows = greedy.mmtok_rows(features[:5], features, features)
    assert many.coverage(rows, 15) == greedy.coverage(rows, 15)
