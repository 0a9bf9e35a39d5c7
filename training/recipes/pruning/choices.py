# SPDX-License-Identifier: Apache-2.0
"""What an arm of a pruning experiment chooses."""

import dataclasses
from typing import Any, Literal

from recurrentgemma.errors import UserError
from training.pruning.config import PenaltySchedule
from training.recipes.vision.layers import Style
from training.recipes.vision.mlp import MLPConfig

CUTS = 5  # in how many parts the baselines prune
FIRST_CUT = 2  # the look at which magnitude and random begin; the next CUTS - 1 follow
Method = Literal["dense", "demp", "magnitude", "random", "snap", "earlycrop", "small"]


MLP = MLPConfig(widths=(256, 256), style=Style(norm="batch"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """All that decides the numbers of an arm.

    looks: how often, at equal distances, units are looked at: DemP removes dead ones, once they are
    at least `least_dead` of those left (each removal compiles the network anew); magnitude and
    random cut at five of the looks, EarlyCroP at the first. removes: else dead units stay and are
    counted. density: the part of the units that the baselines keep. train_images: 0 for all.
    """

    network: Any = MLP
    images: str = "fashion-mnist"
    train_images: int = 0
    test_images: int = 0
    method: Method = "demp"
    penalty: float = 0.0
    schedule: PenaltySchedule = "one_cycle"
    span: float = 0.87
    noise: float = 5e-5
    looks: int = 10
    removes: bool = True
    least_dead: float = 0.05
    density: float = 1.0
    steps: int = 3000
    batch_size: int = 128
    optimizer: Literal["adamw", "sgdm"] = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.looks < 1 or self.steps % self.looks:
            raise UserError(
                f"steps={self.steps} are not divided by looks={self.looks}: expected a multiple"
            )
        if not 0 < self.density <= 1:
            raise UserError(f"density={self.density}: expected a part of the units, such as 0.5")
        if self.method in ("magnitude", "random") and self.looks < FIRST_CUT + CUTS:
            raise UserError(
                f"looks={self.looks}: method={self.method!r} prunes at looks {FIRST_CUT} to "
                f"{FIRST_CUT + CUTS - 1} and trains on after them: give at least {FIRST_CUT + CUTS}"
            )
