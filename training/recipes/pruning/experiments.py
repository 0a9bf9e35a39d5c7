# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe pruning` runs: DemP against its baselines, its time, what becomes of dead
units, and a pruned Griffin."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from training.recipes.experiment import Cell, Experiment, as_json
from training.recipes.pruning import findings, language
from training.recipes.pruning.choices import Training
from training.recipes.pruning.language import Pruned
from training.recipes.pruning.train import train
from training.recipes.vision.layers import BATCH_NORM
from training.recipes.vision.mlp import MLPConfig
from training.recipes.vision.vgg import VGGConfig

DENSITIES = (0.75, 0.5)
BASELINES = ("magnitude", "random", "snap", "earlycrop", "small")


def measure(cells: Sequence[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Arm by arm, its seeds as one program."""
    for arm in dict.fromkeys(cell.arm for cell in cells):
        of_arm = [cell for cell in cells if cell.arm == arm]
        numbers = train(of_arm[0].choices, [cell.seed for cell in of_arm])
        for cell, one in zip(of_arm, numbers, strict=True):
            yield cell, as_json(one)


def arms(
    start: Training, penalties: Sequence[float], ablated: float, densities: Sequence[float]
) -> dict[str, Training]:
    """Dense, DemP at several penalties, DemP without each of its parts at one, and baselines."""
    dense = dataclasses.replace(start, method="dense", penalty=0.0)
    listed = {"dense": dense}
    for penalty in penalties:
        listed[f"DemP {penalty:g}"] = dataclasses.replace(start, penalty=penalty)
    at = dataclasses.replace(start, penalty=ablated)
    listed[f"no noise {ablated:g}"] = dataclasses.replace(at, noise=0.0)
    listed[f"constant {ablated:g}"] = dataclasses.replace(at, schedule="constant")
    listed[f"warm-up {ablated:g}"] = dataclasses.replace(at, schedule="warm_up")
    for method in BASELINES:
        for density in densities:
            listed[f"{method} {density:g}"] = dataclasses.replace(
                dense, method=method, density=density
            )
    return listed


MLP = Training(network=MLPConfig(widths=(256, 256), style=BATCH_NORM))
VGG = Training(
    network=VGGConfig(
        channels=((16, 16), (32, 32)), widths=(64,), first_stride=2, style=BATCH_NORM
    ),
    train_images=12_000,
    steps=1000,
    batch_size=64,
    learning_rate=5e-3,
)
WIDE = Training(
    network=MLPConfig(widths=(768, 768), style=BATCH_NORM), steps=600, penalty=0.1, batch_size=128
)

EXPERIMENTS = (
    Experiment(
        name="mlp",
        question="does DemP keep more accuracy than its baselines at the same size?",
        cost="25 minutes",
        arms=arms(MLP, penalties=(3e-3, 1e-2, 3e-2, 1e-1), ablated=3e-2, densities=DENSITIES),
        measure=measure,
        conclude=findings.conclude_accuracy,
    ),
    Experiment(
        name="vgg",
        question="and with a small VGG?",
        cost="20 minutes",
        arms=arms(VGG, penalties=(3e-2, 1e-1), ablated=1e-1, densities=(0.5,)),
        measure=measure,
        conclude=findings.conclude_accuracy,
    ),
    Experiment(
        name="speed",
        question="does a training that removes units take less time than the dense one?",
        cost="10 minutes",
        arms={
            "dense": dataclasses.replace(WIDE, method="dense", penalty=0.0),
            "DemP": WIDE,
            "DemP, no noise": dataclasses.replace(WIDE, noise=0.0),
            "DemP, no removal": dataclasses.replace(WIDE, removes=False),
        },
        measure=measure,
        conclude=findings.conclude_speed,
    ),
    Experiment(
        name="revivals",
        question="do dead units stay dead?",
        cost="10 minutes",
        arms={
            "AdamW": dataclasses.replace(MLP, penalty=3e-2, removes=False, looks=30),
            "AdamW, no noise": dataclasses.replace(
                MLP, penalty=3e-2, removes=False, looks=30, noise=0.0
            ),
            "SGD with momentum": dataclasses.replace(
                MLP, penalty=3e-2, removes=False, looks=30, optimizer="sgdm", learning_rate=0.1
            ),
        },
        measure=measure,
        conclude=findings.conclude_revivals,
    ),
    Experiment(
        name="griffin",
        question="which way of pruning half of a Griffin's MLP units costs least?",
        cost="20 minutes",
        arms={
            "dense": Pruned(way="dense"),
            "small": Pruned(way="small"),
            "variation": Pruned(way="variation"),
            "magnitude": Pruned(way="magnitude"),
            "random": Pruned(way="random"),
            "group lasso": Pruned(way="group lasso", penalty=0.18, noise=5e-5),
        },
        measure=language.measure,
        conclude=findings.conclude_language,
    ),
)
