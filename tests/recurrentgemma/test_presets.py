# SPDX-License-Identifier: Apache-2.0
"""The published models: their sizes, and a name that is none of theirs."""

import pytest

from recurrentgemma.counts import (
    parameter_count,
)
from recurrentgemma.presets import preset

# Millions of parameters without the embedding (Griffin paper, table 2, with 16 gate blocks).
PAPER = {
    "griffin": dict(
        zip(
            ["100m", "200m", "400m", "1b", "3b", "7b", "14b"],
            (89.3, 163.0, 355.3, 1242.9, 2834.6, 6790, 13764),
            strict=True,
        )
    ),
    "hawk": dict(
        zip(
            ["100m", "200m", "400m", "1b", "3b", "7b"],
            (93.8, 173.7, 374.8, 1304.2, 2996.5, 7176),
            strict=True,
        )
    ),
    "mqa": dict(
        zip(
            ["100m", "200m", "400m", "1b", "3b", "7b"],
            (80.3, 141.7, 316.3, 1120.4, 2511.0, 5940),
            strict=True,
        )
    ),
}


@pytest.mark.parametrize(
    ("name", "millions"),
    [(f"{kind}_{size}", count) for kind, sizes in PAPER.items() for size, count in sizes.items()],
)
def test_sizes_of_the_griffin_paper(name: str, millions: float):
    config = preset(name)
    body = parameter_count(config) - config.vocab_size * config.width
    assert body / 1e6 == pytest.approx(millions, rel=1e-3)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"unknown preset 'griffin_8b' \(did you mean 'griffin_"):
        preset("griffin_8b")
