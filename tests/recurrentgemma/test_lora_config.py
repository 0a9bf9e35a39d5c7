# SPDX-License-Identifier: Apache-2.0
"""LoraConfig: what it refuses."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig


def test_what_it_takes():
    assert LoraConfig().scale == 2
    assert LoraConfig(rank=8, alpha=4.0, layers=r"blocks\.3/.*").scale == 0.5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, r"lora\.rank=0: expected at least 1"),
        ({"alpha": 0.0}, r"lora\.alpha=0\.0: expected a number above 0"),
        ({"alpha": float("inf")}, r"lora\.alpha=inf: expected"),
        ({"alpha": float("nan")}, r"lora\.alpha=nan: expected"),
        ({"layers": "("}, r"lora\.layers='\(': missing \)"),
    ],
)
def test_what_it_refuses(fields, message):
    with pytest.raises(UserError, match=message):
        LoraConfig(**fields)
