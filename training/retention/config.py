# SPDX-License-Identifier: Apache-2.0
"""RetainConfig: how training holds a model to what it could do before."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, get_args

import tyro

from eval.dynamic.retention import Weight
from recurrentgemma.errors import UserError
from training.data.sources.spec import absolute_spec, parse_spec

Method = Literal["none", "kl", "replay", "ewc", "l2", "l2-sp"]
WEIGHTS = {"none": 0.0, "kl": 1.0, "replay": 1.0, "ewc": 10.0, "l2": 1e-4, "l2-sp": 1e-2}
OF_ROWS = ("kl", "replay")  # which read rows of what is kept in every step
NEED_START = ("kl", "ewc", "l2-sp")  # which compare with the parameters before the first step


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetainConfig:
    """What is kept of what a checkpoint could do, and how (docs/finetuning.md). Raises UserError: a
    field is out of range, contradicts another one, or has no effect."""

    method: Annotated[Method, tyro.conf.arg(aliases=["--retain"])] = "none"
    """kl: the checkpoint's distribution of next tokens, on rows of the data to be retained, or
    without such data on the rows that are learned from; replay: those data are learned from, too;
    ewc: the parameters, by their Fisher information on those data; l2-sp: the parameters, all
    alike; l2: small parameters, whatever they were."""
    data: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--retain-data"])] = ()
    """Documents of what is to be retained, as data.sources has them."""
    eval_data: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--retain-eval-data"])] = ()
    """Documents whose bits per byte show what was retained; by default the beginning of retain.data
    (which replay and kl learn from)."""
    weight: Annotated[float | None, tyro.conf.arg(aliases=["--retain-weight"])] = None
    """What the retention loss counts beside the other; by default kl and replay 1, ewc 10,
    l2-sp 0.01, l2 0.0001."""
    decay: Annotated[float, tyro.conf.arg(aliases=["--retain-decay"])] = 1.0
    """The weight is multiplied by this after every step."""
    floor: Annotated[float, tyro.conf.arg(aliases=["--retain-floor"])] = 0.0
    """The weight does not fall below this."""
    batch_size: Annotated[int, tyro.conf.arg(aliases=["--retain-batch-size"])] = 0
    """kl and replay: rows of retain.data in a step; 0: as many as batch_size. Fewer are faster."""
    fisher: Literal["true", "empirical"] = "true"
    """ewc: of tokens that the checkpoint draws, or of those of the data."""
    fisher_gradients: int = 256
    """ewc: from so many gradients, each of one row on every device that has rows of its own."""
    fisher_from: str = ""
    """ewc: the `fisher` folder of another run from the same checkpoint, to estimate none."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise UserError(
                f"retain.method={self.method!r}: expected one of {', '.join(get_args(Method))}"
            )
        for spec in (*self.data, *self.eval_data):
            parse_spec(spec)
        for name, least in (("batch_size", 0), ("fisher_gradients", 1)):
            if getattr(self, name) < least:
                raise UserError(
                    f"retain.{name}={getattr(self, name)}: expected a whole number of at least "
                    f"{least}"
                )
        try:
            assert self.schedule
        except UserError as error:
            raise UserError(f"retain: {error}") from None
        if self.method == "none":
            names = [field.name for field in dataclasses.fields(self) if field.name != "method"]
            self._refuse(*names, why="without a method: give retain.method (--retain), such as kl")
        if self.method != "ewc":
            self._refuse("fisher", "fisher_gradients", "fisher_from", why="but with ewc")
        elif self.fisher_from:
            self._refuse("fisher", "fisher_gradients", why="with retain.fisher_from")
        elif not self.data:
            raise UserError(
                "retain.method=ewc estimates Fisher information on what is to be retained: give "
                "retain.data (--retain-data)"
            )
        if self.method == "replay" and not self.data:
            raise UserError(
                "retain.method=replay learns from what is to be retained, too: give retain.data "
                "(--retain-data)"
            )
        if not (self.method in OF_ROWS and self.data):
            self._refuse("batch_size", why="but with kl and replay on retain.data")

    @property
    def schedule(self) -> Weight:
        """The weight at each step."""
        start = WEIGHTS[self.method] if self.weight is None else self.weight
        return Weight(start=start, decay=self.decay, floor=self.floor)

    @property
    def holds(self) -> bool:
        """Whether anything is added to the loss; with a weight of 0 training is as it is without a
        method, and what is retained is measured."""
        return self.method != "none" and self.schedule.start > 0

    @property
    def reads_rows(self) -> bool:
        """Whether each step reads rows of the data to be retained."""
        return self.holds and self.method in OF_ROWS and bool(self.data)

    @property
    def kickstarts(self) -> bool:
        """Whether the teacher reads the rows that are learned from."""
        return self.holds and self.method == "kl" and not self.data

    def with_absolute_paths(self) -> "RetainConfig":
        """The same from every working directory."""
        return dataclasses.replace(
            self,
            data=tuple(map(absolute_spec, self.data)),
            eval_data=tuple(map(absolute_spec, self.eval_data)),
            fisher_from=self.fisher_from and str(Path(self.fisher_from).absolute()),
        )

    def _refuse(self, *names: str, why: str) -> None:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name in names:
            if (value := getattr(self, name)) != defaults[name]:
                raise UserError(f"retain.{name}={value!r} has no effect {why}")
