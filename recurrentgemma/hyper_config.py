# SPDX-License-Identifier: Apache-2.0
"""HyperConfig: which templates a hypernetwork adapter has."""

import dataclasses
import math

from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperConfig:
    """Low-rank templates beside linear layers, of which a small code makes one adapter. Raises
    UserError: a number is out of range, or `layers` is no regular expression."""

    templates: int = 8
    """Beside each layer (M); a code has so many numbers for each of three groups of layers."""
    rank: int = 4
    """Of each template."""
    alpha: float = 8.0
    """Templates count alpha / rank / sqrt(templates) times, the code's norm being
    sqrt(templates)."""
    layers: str = ".*"
    """Which linear layers: a regular expression of their whole names, as for LoRA."""

    def __post_init__(self) -> None:
        if self.templates < 1:
            raise UserError(f"hyper.templates={self.templates}: expected at least 1")
        if self.rank < 1:
            raise UserError(f"hyper.rank={self.rank}: expected at least 1")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"hyper.alpha={self.alpha}: expected a number above 0")
        try:
            LoraConfig(layers=self.layers)
        except UserError as error:
            raise UserError(str(error).replace("lora.", "hyper.", 1)) from None

    @property
    def width(self) -> int:
        """R, the rank of all templates side by side."""
        return self.templates * self.rank

    @property
    def scale(self) -> float:
        return self.alpha / self.rank / math.sqrt(self.templates)
