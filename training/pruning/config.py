# SPDX-License-Identifier: Apache-2.0
"""PruneConfig: how strongly training draws the MLPs' units to zero, and when."""

import dataclasses
from typing import Literal, get_args

from recurrentgemma.errors import UserError

PenaltySchedule = Literal["one_cycle", "constant", "warm_up"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Units of the MLPs that go to zero while a model trains (docs/pruning.md). Raises UserError: a
    field is out of range, or has no effect."""

    penalty: float = 0.0
    """Group lasso on each unit of the MLPs (its gate, up and down weights): a unit that no gradient
    holds up goes to zero. 0: none; 0.03 to 0.3 is a range to try."""
    schedule: PenaltySchedule = "one_cycle"
    """one_cycle: up over the first 30% of the span, then down to nothing; constant; or warm_up: up
    over the first 30% of the span, then constant."""
    span: float = 0.87
    """The part of the run's steps that the schedule takes."""
    noise: float = 0.0
    """Highest standard deviation, by the same schedule, of noise on the weights of units that have
    a gradient; DemP has 5e-5."""

    def __post_init__(self) -> None:
        if self.schedule not in get_args(PenaltySchedule):
            raise UserError(
                f"prune.schedule={self.schedule!r}: expected one of "
                + ", ".join(get_args(PenaltySchedule))
            )
        for name, low, high in (("penalty", 0, 1e6), ("noise", 0, 1), ("span", 1e-6, 1)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(
                    f"prune.{name}={value!r}: expected a value between {low} and {high}"
                )
        if self.penalty == 0:
            for name in ("schedule", "span", "noise"):
                self._refuse_if_given(name, "without a penalty: give prune.penalty, such as 0.2")
        if self.schedule == "constant":
            self._refuse_if_given("span", "on a constant penalty, which stays to the last step")

    def _refuse_if_given(self, name: str, why: str) -> None:
        value, (default,) = (
            getattr(self, name),
            [field.default for field in dataclasses.fields(self) if field.name == name],
        )
        if value != default:
            raise UserError(f"prune.{name}={value!r} has no effect {why}")
