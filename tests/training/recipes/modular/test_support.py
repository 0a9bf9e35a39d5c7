# SPDX-License-Identifier: Apache-2.0
"""Supports: what is trained on and what is held out, and connectivity by another's graph theory."""

from math import comb

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from recurrentgemma.errors import UserError
from training.recipes.modular.support import (
    KINDS,
    Support,
    combinations,
    components,
    exactly,
    unseen,
)


def rows(masks_CLM) -> set[tuple[float, ...]]:
    return {tuple(mask.reshape(-1)) for mask in masks_CLM}


def test_all_combinations():
    table_CLM = combinations(5, 3)
    assert table_CLM.shape == (comb(5, 1) + comb(5, 2) + comb(5, 3), 1, 5)
    assert len(rows(table_CLM)) == len(table_CLM)
    assert combinations(4, 2, layers=2).shape == (100, 2, 4)
    assert (exactly(6, 3).sum(-1) == 3).all()
    assert len(exactly(6, 3)) == comb(6, 3)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_is_not_trained_on(kind, layers):
    train_CLM, out_CLM = Support(kind=kind, modules=6, hot=2, layers=layers, reach=1).split(3)
    assert not rows(train_CLM) & rows(out_CLM)
    assert rows(train_CLM) | rows(out_CLM) <= rows(combinations(6, 2, layers))
    expected = [(layers - 1, 5)] if kind == "non-compositional" else []
    assert unseen(train_CLM) == expected
    assert components(train_CLM) == (2 if kind == "disconnected" else 1)


def test_one_pair_repairs_two_triangles():
    triangles = Support(kind="disconnected", modules=6, hot=2, reach=1).split(0)
    bridged = Support(kind="bridged", modules=6, hot=2, reach=1).split(0)
    more = rows(bridged.train_CLM) - rows(triangles.train_CLM)
    assert more == {(0, 0, 1, 1, 0, 0)}
    assert rows(bridged.out_CLM) == rows(triangles.out_CLM)
    assert (1, 0, 0, 0, 1, 0) in rows(triangles.out_CLM)


def test_the_authors_numbers_of_tasks():
    connected = Support(kind="connected", modules=8, hot=2, layers=2).split(0)
    assert len(connected.train_CLM) == (8 + 8 + 8) ** 2
    single = Support(kind="disconnected", modules=8, hot=2).split(0)
    assert len(single.train_CLM) == 8 + 2 * comb(4, 2)


def test_single_modules_are_disconnected():
    split = Support(kind="random", modules=4, hot=1, layers=2).split(0)
    assert components(split.train_CLM) == 4


@hypothesis.given(
    st.lists(st.lists(st.booleans(), min_size=5, max_size=5).filter(any), min_size=1, max_size=6)
)
def test_components_are_those_of_the_graph_of_combinations(masks):
    masks_CM = np.array(masks, float)
    count, _ = connected_components(masks_CM @ masks_CM.T > 0, directed=False)
    assert components(masks_CM[:, None]) == count


def test_random_splits_differ_by_seed():
    support = Support(kind="random", modules=6, hot=2)
    assert rows(support.split(0).out_CLM) != rows(support.split(1).out_CLM)
    np.testing.assert_array_equal(support.split(1).out_CLM, support.split(1).out_CLM)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ring", "modules": 6, "hot": 2}, "'ring': expected one of random, connected"),
        ({"kind": "random", "modules": 3, "hot": 4}, "4 modules at once of 3: expected 1 to all"),
        ({"kind": "random", "modules": 3, "hot": 1, "layers": 0}, "layers 0.*at least 1"),
        ({"kind": "random", "modules": 3, "hot": 1, "held_out": 1}, "held_out 1: expected"),
        ({"kind": "connected", "modules": 7, "hot": 2}, "connected support of 7.*even number"),
        ({"kind": "bridged", "modules": 6, "hot": 3}, "6 modules, 3 at once: expected"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=message):
        Support(**options)


def test_a_module_unseen_where_that_was_not_asked_for():
    with pytest.raises(UserError, match=r"random support leaves module \d of layer 0 unseen"):
        Support(kind="random", modules=4, hot=1).split(0)


def test_nothing_to_test():
    with pytest.raises(UserError, match="leaves no combination to test"):
        Support(kind="connected", modules=6, hot=2, reach=3).split(0)
