# SPDX-License-Identifier: Apache-2.0
"""What an arm may not choose."""

import pytest

from recurrentgemma.errors import UserError
from training.recipes.pruning.choices import Training


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 100, "looks": 7}, "steps=100 are not divided by looks=7"),
        ({"density": 0.0}, "density=0.0: expected a part of the units"),
        ({"method": "random", "looks": 5}, "looks=5: .* give at least 7"),
    ],
)
def test_choices_that_do_not_go_together(fields: dict, message: str):
    with pytest.raises(UserError, match=message):
        Training(**fields)
