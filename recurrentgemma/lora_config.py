# SPDX-License-Identifier: Apache-2.0
"""LoraConfig: which adapters a run trains."""

import dataclasses
import re

from recurrentgemma.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters beside linear layers. Raises UserError: a number is out of range, or
    `layers` is no regular expression."""

    rank: int = 16
    alpha: float = 32.0
    """The adapters' product counts alpha / rank times."""
    layers: str = ".*"
    """Which linear layers: a regular expression of their whole names, such as
    `blocks.3/recurrent_block/linear_x`, `blocks.2/attention_block/proj_q`,
    `blocks.2/mlp_block/ffw_up`."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"lora.rank={self.rank}: expected at least 1")
        if not 0 < self.alpha < float("inf"):
            raise UserError(f"lora.alpha={self.alpha}: expected a number above 0")
        try:
            re.compile(self.layers)
        except re.error as error:
            raise UserError(f"lora.layers={self.layers!r}: {error}") from None

    @property
    def scale(self) -> float:
        return self.alpha / self.rank
