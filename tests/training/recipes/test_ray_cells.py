# SPDX-License-Identifier: Apache-2.0
"""The cells of a study by a cluster are those of one machine, whoever is lost."""

import json
import sys
from pathlib import Path

import pytest

from eval.options import RayOptions
from tests.checkpoints.test_ray_cluster import FakeRay
from tests.ray_nodes import ended, ended_without_a_node, killed, ray_nodes
from training.recipes.experiment import run_experiment
from training.recipes.pfo.toy import TOY
from training.recipes.ray_cells import OnCluster, Origin, compute, find_experiment


def test_an_experiment_is_found_by_its_name_and_a_preset_by_its_options():
    from training.recipes.pfo.experiments import PRESETS

    assert find_experiment(Origin("pfo", "toy")) is TOY
    options = PRESETS[0].options
    experiment = find_experiment(Origin("pfo", PRESETS[0].name, options))
    assert experiment.arms == PRESETS[0].experiment(options).arms


def test_cells_on_a_cluster_are_the_cells_alone(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    asked = []
    cluster = OnCluster(Origin("pfo", "toy"), RayOptions(ray="local", ray_cpus=0.5))

    def measured(cells, folder):
        asked.extend(cells)
        return cluster.measured(cells, folder)

    alone = run_experiment("pfo", TOY, tmp_path / "alone", seeds=1)
    record = run_experiment("pfo", TOY, tmp_path / "ray", seeds=1, measured=measured)
    assert record["result"] == alone["result"]
    assert len(asked) == len(TOY.arms)
    cells = {
        kind: {path.name: path.read_text() for path in (tmp_path / kind / "cells").iterdir()}
        for kind in ("alone", "ray")
    }
    assert cells["alone"] == cells["ray"]
    lost = next((tmp_path / "ray" / "cells").iterdir())
    lost.unlink()
    run_experiment("pfo", TOY, tmp_path / "ray", seeds=1, measured=measured)
    assert len(asked) == len(TOY.arms) + 1
    assert lost.read_text() == cells["alone"][lost.name]
    arm = next(iter(TOY.arms))
    json.loads(compute((Origin("pfo", "toy"), str(tmp_path)), arm, 0))


@pytest.mark.slow  # three nodes, each of which imports JAX and compiles
def test_three_nodes_one_lost_and_the_driver_too(tmp_path: Path):
    def results(kind: str) -> dict[str, str]:
        return {path.name: path.read_text() for path in tmp_path.glob(f"{kind}/*/*/cells/[!.]*")}

    command = ["recipe", "forgetting", "mdp", "--seeds", "3", "--out"]
    with ray_nodes(3) as (address, tell):
        ended([*command, str(tmp_path / "alone")])
        on_cluster = [*command, str(tmp_path / "ray"), "--ray", address]
        killed(on_cluster, lambda: results("ray"))
        first = results("ray")
        assert first.items() <= results("alone").items()
        _, errors = ended_without_a_node(on_cluster, tell, lambda: len(results("ray")) > len(first))
        assert f"{12 - len(first)} of 12 cells to compute" in errors
        assert results("ray") == results("alone")
