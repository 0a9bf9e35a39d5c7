# SPDX-License-Identifier: Apache-2.0
"""PreferenceConfig: how a run learns from answers that were preferred to others."""

import dataclasses
import math
import os
from typing import Literal, get_args

from recurrentgemma.errors import UserError

PreferenceMethod = Literal["dpo", "kto"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreferenceConfig:
    """What `griffin finetune --method dpo` (or `kto`) has beside any other run. Raises UserError: a
    field is out of range, or has no effect."""

    method: PreferenceMethod = "dpo"
    pairs: tuple[str, ...] = ()
    """Files of lines to learn from (preferences.py)."""
    held_out: tuple[str, ...] = ()
    """The same, to be scored on."""
    plain: bool = False
    """Prompt and answer are plain text, one after the other, without a chat template."""
    beta: float = 0.1
    """How strongly it is held to the reference: a reward is beta log(policy / reference)."""
    label_smoothing: float = 0.0
    """dpo: the share of pairs that are taken to be the wrong way round (conservative DPO)."""
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    """kto: what answers of either label count."""

    def __post_init__(self) -> None:
        if self.method not in get_args(PreferenceMethod):
            raise UserError(f"method={self.method!r}: expected dpo or kto")
        if not 0 < self.beta < math.inf:
            raise UserError(f"beta={self.beta}: expected a number above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(
                f"label_smoothing={self.label_smoothing}: expected 0 or more, and below 0.5"
            )
        for name in ("desirable_weight", "undesirable_weight"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise UserError(f"{name}={value}: expected a number above 0")
            if value != 1 and self.method != "kto":
                raise UserError(f"{name}={value} has no effect with method={self.method}")
        if self.label_smoothing and self.method != "dpo":
            raise UserError(f"label_smoothing has no effect with method={self.method}")

    @property
    def rows(self) -> int:
        """Rows of a batch that an example takes."""
        return 2 if self.method == "dpo" else 1

    def with_absolute_paths(self) -> "PreferenceConfig":
        """The same from every working directory."""
        return dataclasses.replace(
            self,
            pairs=tuple(map(os.path.abspath, self.pairs)),
            held_out=tuple(map(os.path.abspath, self.held_out)),
        )
