# SPDX-License-Identifier: Apache-2.0
"""What the arms of the study on Hopper are."""

from training.recipes.pfo.hopper_study import HOPPER


def test_every_arm():
    assert list(HOPPER.arms) == [
        f"{epochs}/{name}" for epochs in (10, 20) for name in ("none", "PFO last", "PFO all")
    ]
    assert HOPPER.arms["20/PFO all"].choices.feature_beta == 10
    assert HOPPER.arms["10/none"].steps == 1_000_000
