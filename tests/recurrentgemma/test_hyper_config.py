# SPDX-License-Identifier: Apache-2.0
"""What a hypernetwork adapter may be."""

import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.hyper_config import HyperConfig


def test_sizes():
    hyper = HyperConfig(templates=16, rank=2, alpha=4.0)
    assert (hyper.width, hyper.scale) == (32, 0.5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"templates": 0}, r"hyper\.templates=0: expected at least 1"),
        ({"rank": 0}, r"hyper\.rank=0: expected at least 1"),
        ({"alpha": 0.0}, r"hyper\.alpha=0\.0: expected a number above 0"),
        ({"alpha": float("inf")}, r"hyper\.alpha=inf"),
        ({"layers": "("}, r"^hyper\.layers='\('"),
    ],
)
def test_what_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        HyperConfig(**fields)
