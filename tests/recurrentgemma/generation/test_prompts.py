# SPDX-License-Identifier: Apache-2.0
"""Prompts of every form. test_lm.py has what the model makes of them."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.generation.prompts import as_ids, as_prompts


@pytest.mark.parametrize("prompt", ["", "a", [], [1, 2], np.array([1, 2])])
def test_one(prompt):
    prompts, single = as_prompts(prompt)
    assert single
    assert prompts[0] is prompt


@pytest.mark.parametrize("prompts", [["a"], [[1, 2], "b"], np.array([[1, 2]])])
def test_several(prompts):
    assert as_prompts(prompts) == (prompts, False)


def test_ids():
    assert as_ids(np.array([3, 4], np.uint16)) == as_ids((3, 4)) == [3, 4]
    assert all(type(i) is int for i in as_ids(np.array([3], np.int64)))


@pytest.mark.parametrize("prompt", [None, 7])
def test_what_is_no_prompt(prompt):
    with pytest.raises(UserError, match="expected text, token ids, or a list of such"):
        as_prompts(prompt)


@pytest.mark.parametrize("prompt", [[1.5], [[1], [2, 3]], [[1, 2]], ["a"]])
def test_what_are_no_ids(prompt):
    with pytest.raises(UserError, match="expected text or a list of token ids"):
        as_ids(prompt)
