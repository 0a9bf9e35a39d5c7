# SPDX-License-Identifier: Apache-2.0
"""Options that contradict each other."""

from typing import Any

import pytest

from recurrentgemma.errors import UserError
from training.recipes.sparc.pair_options import PairOptions


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"text": "a", "tokenizer": "b"}, r"--pairs\.tokenizer b beside --pairs\.text a.*its own"),
        ({"directions": 2}, "are for a Griffin"),
        ({"language_weight": 0.1}, "are for a Griffin"),
        ({"side": 30}, "--pairs.side 30: expected a multiple of patch 8"),
    ],
)
def test_what_does_not_fit(options: dict[str, Any], problem: str):
    with pytest.raises(UserError, match=problem):
        PairOptions(**options)
