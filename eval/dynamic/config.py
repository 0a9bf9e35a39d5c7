# SPDX-License-Identifier: Apache-2.0
"""DynamicConfig: what the literature varies of dynamic evaluation, each a choice.

Krause et al. 2018 (arXiv 1709.07432) and 2019 (1904.08378) brought the update and its scaling by
gradient statistics; Rannen-Triki et al. 2024 (2403.01518) vary parameters, adapters, windows and
how often is learned.
"""

import dataclasses
import math
from typing import Any, Literal, get_args

from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig

Parameters = Literal["all", "mlp", "recurrence", "attention", "biases", "lora", "code"]
Algorithm = Literal["none", "sgd", "rms", "adam"]
Retain = Literal["none", "kl", "l2-sp", "ewc", "root-ewc"]
LORA = LoraConfig(rank=8, alpha=16.0)
RATES = {"none": 0.0, "sgd": 0.1, "adam": 1e-3, "rms": 3e-5}
EPS = {"rms": 2e-5, "adam": 1e-8}  # of Krause et al. 2018 (their code), and of Adam


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{name}={value!r}: expected a whole number of at least {least}")


def _expect_one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the adapted parameters θ learn from a gradient g; θ_g are those of the checkpoint.

    sgd: θ ← θ - rate g + decay (θ_g - θ)

    adam: θ ← θ - rate m / (sqrt(v) + eps) + decay (θ_g - θ)

    rms: θ ← θ - rate g / (R + eps) + decay N (θ_g - θ), with R the root mean square of g over
    training text and N = R over its mean, at most 1 / decay (Krause et al. 2018)

    none: nothing is learned, which is static scoring
    """

    algorithm: Algorithm = "sgd"
    learning_rate: float | None = None
    """By default what was best for all parameters in docs/results/dynamic: 0.1 for sgd, 1e-3 for
    adam, 3e-5 for rms. It matters most, and a larger model may want a smaller one."""
    decay: float = 0.0
    """What of its distance to the checkpoint a parameter loses in each update."""
    clip_norm: float = 0.0
    """Gradients of a larger global norm are scaled down to it; 0: none is."""
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float | None = None
    """By default 1e-8 for adam, 2e-5 for rms (Krause et al. 2018)."""
    sum_of_squares: bool = False
    """rms: R is the root of the sum of squares, not of their mean (Krause et al. 2019)."""
    normalise_decay: bool = True
    """rms: N is R over the mean of its means over the tensors (Krause et al. 2018), else R itself
    (2019)."""
    clip_decay: bool = True
    """rms: N is at most 1 / decay (Krause et al. 2018), so that no parameter decays beyond θ_g."""

    def __post_init__(self) -> None:
        _expect_one_of("optimizer.algorithm", self.algorithm, get_args(Algorithm))
        for name, low, high in (
            ("learning_rate", 0.0, math.inf),
            ("decay", 0.0, math.inf),
            ("clip_norm", 0.0, math.inf),
            ("beta1", 0.0, 0.9999),
            ("beta2", 0.0, 0.99999),
            ("eps", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and value < math.inf):
                raise UserError(
                    f"optimizer.{name}={value!r}: expected a number from {low} to {high}"
                )
        if self.algorithm in ("sgd", "adam") and self.decay > 1:
            raise UserError(
                f"optimizer.decay={self.decay}: with {self.algorithm} it is a share of the "
                "distance to the checkpoint; expected a number from 0 to 1"
            )
        others = {
            "none": ("learning_rate", "decay", "clip_norm"),
            "rms": ("beta1", "beta2"),
            "sgd": ("beta1", "beta2", "eps"),
            "adam": (),
        }[self.algorithm]
        if self.algorithm != "rms":
            others += ("sum_of_squares", "normalise_decay", "clip_decay")
        for field in dataclasses.fields(self):
            if field.name in others and getattr(self, field.name) != field.default:
                raise UserError(
                    f"optimizer.{field.name} has no effect with optimizer.algorithm="
                    f"{self.algorithm}: leave it out"
                )

    @property
    def rate(self) -> float:
        """The learning rate."""
        return RATES[self.algorithm] if self.learning_rate is None else self.learning_rate

    @property
    def epsilon(self) -> float | None:
        """`eps` or its default; None where the algorithm has none."""
        return EPS.get(self.algorithm) if self.eps is None else self.eps


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """Other segments that are learned from beside each one, read from an empty state."""

    rows: int = 0
    """How many beside each segment; 0: none."""
    weight: float = 1.0
    """Their mean loss counts so many times in what is learned from."""
    of: Literal["stream", "text"] = "stream"
    """Earlier segments of the same stream, or a given text, such as what the model was trained
    on."""
    capacity: int = 256
    """Of a stream's earlier segments so many are kept, each as likely as the other."""
    targets: Literal["tokens", "checkpoint"] = "tokens"
    """What is learned of them: their tokens, or the checkpoint's distribution of each next one, by
    KL(checkpoint, adapted) (behavioural cloning)."""

    def __post_init__(self) -> None:
        _at_least("replay.rows", self.rows, 0)
        _at_least("replay.capacity", self.capacity, 1)
        _expect_one_of("replay.of", self.of, ("stream", "text"))
        _expect_one_of("replay.targets", self.targets, ("tokens", "checkpoint"))
        if not 0 < self.weight < math.inf:
            raise UserError(f"replay.weight={self.weight}: expected a number above 0")
        others = [f for f in dataclasses.fields(self) if getattr(self, f.name) != f.default]
        if self.rows == 0 and others:
            raise UserError("replay's options have no effect with replay.rows=0: give some rows")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetainConfig:
    """What holds the adapted parameters θ to the checkpoint's θ_g beside optimizer.decay, which
    does it after each update. These are losses, added to that of the segment (arXiv 2402.02868):

    kl: weight KL(checkpoint, adapted) of the segment's own next tokens (kickstarting)

    l2-sp: weight Σ (θ - θ_g)²

    ewc: weight Σ F (θ - θ_g)², F the Fisher information of each parameter, per token, from gradient
    statistics

    root-ewc: the same with the root of F, as Krause et al. have it in their decay
    """

    method: Retain = "none"
    weight: float = 1.0

    def __post_init__(self) -> None:
        _expect_one_of("retain.method", self.method, get_args(Retain))
        if not 0 < self.weight < math.inf:
            raise UserError(f"retain.weight={self.weight}: expected a number above 0")
        if self.method == "none" and self.weight != 1.0:
            raise UserError("retain.weight has no effect without retain.method: give one")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicConfig:
    """All choices. Lengths are in tokens.

    Raises UserError: one is out of range, or has no effect beside the others.
    """

    parameters: Parameters = "all"
    """Which are adapted. recurrence: the RG-LRUs with their gates; biases: of every layer; lora:
    adapters beside linear layers, and nothing else; code: that of `templates`, and nothing
    else."""
    layers: str = ""
    """Only these layers' parameters, such as 4-7 or 0,2,5; by default all, and the embedding."""
    lora: LoraConfig = LORA
    templates: str = ""
    """For parameters code: a folder with hyper_adapter.json, whose templates stay as they are. The
    code begins as the mean of those in the folder."""
    optimizer: OptimizerConfig = OptimizerConfig()
    segment_length: int = 32
    """How many tokens are scored before they are learned from."""
    update_every: int = 1
    """Parameters change after so many segments, by the mean of their gradients."""
    state: Literal["carry", "reset"] = "carry"
    """carry: the model's state goes on from segment to segment. reset: each begins with an empty
    one, and sees `overlap` tokens before it and nothing else."""
    overlap: int = 0
    """So many earlier tokens are read again before each segment, with the parameters of now. With
    state carry, gradients go back through the state so far; without, they end with the segment."""
    learn_overlap: bool = False
    """The overlap's own targets are learned from again."""
    reset_parameters: bool = True
    """Each document begins with the checkpoint's parameters. --no-reset-parameters: what was
    learned in one document stays for the next."""
    replay: ReplayConfig = ReplayConfig()
    retain: RetainConfig = RetainConfig()
    seed: int = 0
    """Of LoRA's first values and of what is replayed."""

    def __post_init__(self) -> None:
        _expect_one_of("parameters", self.parameters, get_args(Parameters))
        _expect_one_of("state", self.state, ("carry", "reset"))
        _at_least("segment_length", self.segment_length, 1)
        _at_least("update_every", self.update_every, 1)
        _at_least("overlap", self.overlap, 0)
        if self.learn_overlap and not self.overlap:
            raise UserError("learn_overlap has no effect with overlap=0: give an overlap")
        if not self.learns and (
            self.replay.rows
            or self.update_every > 1
            or self.learn_overlap
            or self.layers
            or self.retain.method != "none"
        ):
            raise UserError(
                "with optimizer.algorithm=none nothing is learned: replay, update_every, "
                "learn_overlap, layers and retain have no effect; leave them out"
            )
        if self.parameters != "lora" and self.lora != LORA:
            raise UserError(f"lora's options have no effect with parameters={self.parameters}")
        self._check_code()

    def _check_code(self) -> None:
        if self.parameters != "code":
            if self.templates:
                raise UserError(
                    f"templates={self.templates!r} has no effect with parameters="
                    f"{self.parameters}: leave it out, or set parameters=code"
                )
            return
        if not self.templates:
            raise UserError(
                "parameters=code without templates: name the folder with hyper_adapter.json whose "
                "code is to be adapted (--templates FOLDER)"
            )
        if self.layers:
            raise UserError(
                f"layers={self.layers!r} has no effect with parameters=code, which is of all "
                "layers that have templates: leave it out"
            )
        if self.needs_statistics:
            raise UserError(
                "parameters=code has no gradient statistics: use optimizer.algorithm sgd or adam, "
                "and retain.method none, kl or l2-sp"
            )

    @property
    def learns(self) -> bool:
        return self.optimizer.algorithm != "none"

    @property
    def tokens_read(self) -> int:
        """T, tokens that the model reads for each segment."""
        return self.overlap + self.segment_length

    @property
    def targets(self) -> int:
        """M, targets that the head sees for each segment: the scored ones, then the overlap's."""
        return self.tokens_read if self.learn_overlap else self.segment_length

    @property
    def needs_statistics(self) -> bool:
        """Whether it takes gradient statistics of training text."""
        return self.optimizer.algorithm == "rms" or self.retain.method in ("ewc", "root-ewc")

    @property
    def carries_teacher(self) -> bool:
        """Whether the checkpoint reads each stream, too, with a state of its own."""
        return self.retain.method == "kl" and self.state == "carry"

    def program(self) -> "DynamicConfig":
        """The choices without what a compiled step takes as a value: those with the same program
        are compiled once."""
        optimizer = dataclasses.replace(
            self.optimizer,
            learning_rate=None,
            decay=float(self.optimizer.decay > 0),
        )
        retain = dataclasses.replace(self.retain, weight=1.0)
        return dataclasses.replace(self, optimizer=optimizer, retain=retain, seed=0)

    def static(self) -> "DynamicConfig":
        """The same reading of text, and nothing learned from it."""
        return DynamicConfig(
            optimizer=OptimizerConfig(algorithm="none"),
            segment_length=self.segment_length,
            state=self.state,
            overlap=self.overlap,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "DynamicConfig":
        """Of a to_json dictionary."""
        nested = {"lora": LoraConfig, "optimizer": OptimizerConfig, "replay": ReplayConfig}
        nested["retain"] = RetainConfig
        given = {n: nested[n](**f) if n in nested else f for n, f in fields.items()}
        return cls(**given)

    def describe(self) -> str:
        """What differs from the defaults, in one line."""
        return ", ".join(_differences(self, DynamicConfig(), "")) or "the defaults"


def _differences(config: Any, usual: Any, prefix: str) -> list[str]:
    lines = []
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(usual, field.name)
        if dataclasses.is_dataclass(value):
            lines += _differences(value, default, f"{prefix}{field.name}.")
        elif value != default:
            lines.append(f"{prefix}{field.name}={value}")
    return lines
