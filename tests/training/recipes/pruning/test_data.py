# SPDX-License-Identifier: Apache-2.0
"""Images in memory, standardised by the training set's moments."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.pruning.data import load_sets


def test_splits_are_the_set_s_own(patches: str):
    sets = load_sets(patches, 0, 0)
    assert sets.train_NHWC.shape == (500, 32, 32, 3)
    assert sets.test_NHWC.shape == (100, 32, 32, 3)
    assert sets.classes == 10
    np.testing.assert_allclose(sets.train_NHWC.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(sets.train_NHWC.std((0, 1, 2)), 1, atol=1e-3)
    few = load_sets(patches, 70, 20)
    assert len(few.train_N) == 70
    np.testing.assert_array_equal(few.test_N, sets.test_N[:20])


def test_a_wrong_format_is_refused(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"not a pickle")
    with pytest.raises(UserError, match="no batch of CIFAR-10"):
        load_sets(f"cifar10:{tmp_path}", 0, 0)
