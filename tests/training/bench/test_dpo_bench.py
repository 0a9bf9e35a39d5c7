# SPDX-License-Identifier: Apache-2.0
"""DPO is TRL's, step by step: tests/golden/dpo.json has what that logged."""

import json

import numpy as np

from tests.recurrentgemma.test_golden import GOLDEN, load
from training.bench.dpo_bench import COMPARED, draw_pairs, train


def test_twenty_steps_are_those_of_trl():
    golden = json.loads((GOLDEN / "dpo.json").read_text())
    log = train(load(), golden["pairs"], golden["settings"])
    assert len(log["loss"]) == golden["settings"]["steps"] == 20
    for name in COMPARED:  # at first all rewards are 0, but for rounding, and none is the larger
        np.testing.assert_allclose(
            log[name][1:], golden["trl"][name][1:], rtol=1e-4, atol=1e-4, err_msg=name
        )
    np.testing.assert_allclose(log["loss"][0], np.log(2), rtol=1e-5)


def test_pairs_are_of_the_vocabulary():
    pairs = draw_pairs(8, 12, 32)
    ids = [token for pair in pairs for of in pair.values() for token in of]
    assert 5 <= min(ids) <= max(ids) < 32
    assert len({len(pair["prompt_ids"]) for pair in pairs}) > 1
