# SPDX-License-Identifier: Apache-2.0
"""The arms of the MDP table, and its cells beside the paper's."""

from training.recipes.plasticity.mdp import MDPS
from training.recipes.plasticity.mdp_study import PAPER, TABLE, conclude_mdps
from training.recipes.side_by_side import split


def test_every_cell_of_the_papers_table_has_its_arm():
    assert len(TABLE.arms) == 3 * len(PAPER)
    for name, network in PAPER:
        for kind in ("easy", "hard", "sparse"):
            arm = TABLE.arms[f"{kind}/{network}/{name}"]
            assert (arm.mdp, arm.choices.network.kind) == (MDPS[kind], network)
    assert len({split(arm)[0] for arm in TABLE.arms.values()}) == 2 * 6  # programs


def test_the_table_stands_beside_the_papers():
    def cells(change: float) -> list[dict]:
        return [{"probe_before": 0.5, "probe_after": 0.5 + change}] * 2

    arms = {name: cells(0.1 if name.endswith("none") else 0.0) for name in TABLE.arms}
    concluded = conclude_mdps(arms)
    by_mdp, over_all = concluded.tables
    assert by_mdp.columns == ("network", "arm", "easy", "hard", "sparse")
    row = next(row for row in over_all.rows if row[:2] == ["mlp", "none"])
    assert row == ["mlp", "none", "0.100 ± 0.000", ".27 ± .21"]
    assert "mlp: none +0.10, two-hot +0.00" in concluded.verdict
