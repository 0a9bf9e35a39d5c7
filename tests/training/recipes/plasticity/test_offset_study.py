# SPDX-License-Identifier: Apache-2.0
"""The arms of the study of offsets, and what it concludes of known numbers."""

from training.recipes.plasticity.offset_study import OFFSET, OFFSETS, conclude_offsets


def test_bins_reach_beyond_the_offset_and_the_last_task_has_none():
    for name, arm in OFFSET.arms.items():
        assert not arm.stream.last_offset
        if name.startswith("two-hot"):
            assert arm.choices.head.high == arm.stream.offset + 2
    assert len(OFFSET.arms) == 3 * len(OFFSETS)


def test_a_dose_response_is_said():
    def cells(error: float) -> list[dict]:
        one = {"error": [1.0, error], "panel": {"leading": [3.0, 3.0], "kernel_rank": [5.0, 5.0]}}
        return [one, one]

    arms = {f"regression, offset {n:g}": cells(n / 100) for n in OFFSETS}
    arms |= {f"two-hot, offset {n:g}": cells(0.1) for n in OFFSETS}
    concluded = conclude_offsets(arms)
    assert "regression: 0.000, 0.080, 0.320, 1.280 (grows with the offset)" in concluded.verdict
    assert "two-hot: 0.100, 0.100, 0.100, 0.100." in concluded.verdict
