# SPDX-License-Identifier: Apache-2.0
"""AdamW or Muon with warm-up and cosine or WSD, clipping by global norm, and weight decay on
the weights of linear layers only.

RecurrentGemma (section 2) takes the parameters of the RG-LRU out of weight decay; DeepMind's
fine-tuning mask also takes out embeddings, norm scales and biases called `b`, but decays the biases
of linear layers, which are called `bias`. Here decay is opt-in: only the weights of linear layers
decay, so a parameter of a new kind never decays by accident. Everything else is optax.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from recurrentgemma.errors import UserError
from recurrentgemma.sharding import parameter_name

Algorithm = Literal["adamw", "muon"]
Schedule = Literal["cosine", "wsd"]
MUON_RMS = 0.2  # of Muon's updates, about that of AdamW's, so that learning rates carry over


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW: the step is -lr(t) (m / (sqrt(v) + eps) + weight_decay * parameter), gradients clipped
    before. Muon: the weights of linear layers go by their orthogonalised momentum instead."""

    algorithm: Algorithm = "adamw"
    """muon: Newton-Schulz on the weights of linear layers, AdamW on all else."""
    schedule: Schedule = "cosine"
    """After warm-up: cosine, or wsd: constant, then linear decay over decay_fraction."""
    decay_fraction: float = 0.2
    """The last part of training in which wsd decays, as a fraction of all steps."""
    learning_rate: float = 3e-3
    """Highest learning rate, reached after warmup_steps."""
    warmup_steps: int = 100
    """Steps of linear warm-up from 0."""
    final_fraction: float = 0.1
    """The schedule ends at this fraction of learning_rate, at the last step of training."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Times the learning rate; on the weights of linear layers only."""
    clip_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it."""
    momentum: float = 0.95
    """Of Muon, by Nesterov."""

    def __post_init__(self) -> None:
        for name, choices in (("algorithm", Algorithm), ("schedule", Schedule)):
            if getattr(self, name) not in get_args(choices):
                raise UserError(
                    f"{name}={getattr(self, name)!r}: expected one of "
                    + ", ".join(get_args(choices))
                )
        for name, low, high in (
            ("learning_rate", 0.0, 10.0),
            ("warmup_steps", 0, float("inf")),
            ("final_fraction", 0.0, 1.0),
            ("decay_fraction", 0.0, 1.0),
            ("momentum", 0.0, 0.9999),
            ("beta1", 0.0, 0.9999),
            ("beta2", 0.0, 0.99999),
            ("eps", 1e-20, 1.0),
            ("weight_decay", 0.0, 10.0),
            ("clip_norm", 1e-9, float("inf")),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"{name}={value!r}: expected a value between {low} and {high}")


def learning_rate_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear from 0 to the peak over warmup_steps, then down to final_fraction at `steps`."""
    if config.warmup_steps >= steps:
        raise UserError(
            f"warmup_steps={config.warmup_steps} leaves nothing of steps={steps}; "
            f"expected fewer warm-up steps than steps"
        )
    unconverted = _schedule(config, steps)

    def schedule(step: Any) -> jax.Array:
        # optax mixes Python floats with int32 steps, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            return jax.numpy.asarray(unconverted(step), jax.numpy.float32)

    return schedule


def decay_start(config: OptimConfig, steps: int) -> int | None:
    """The last step of a run of so many that is the same however many there are: the learning rate
    falls after it. None for a cosine, which falls from the warm-up on."""
    if config.schedule != "wsd":
        return None
    return max(config.warmup_steps, steps - max(1, round(config.decay_fraction * steps)))


def _schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    if config.schedule == "wsd":
        peak, last = config.learning_rate, config.learning_rate * config.final_fraction
        start = decay_start(config, steps)
        assert start is not None
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, peak, max(1, config.warmup_steps)),
                optax.constant_schedule(peak),
                optax.linear_schedule(peak, last, max(1, steps - start)),
            ],
            [config.warmup_steps, start],
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=steps,
        end_value=config.learning_rate * config.final_fraction,
    )


def decays(name: str) -> bool:
    """Whether the parameter of this slash-joined name decays: the `weight` of a linear layer does,
    nothing else.

    Left out by it: `rg_lru` (a_param, gate weights and biases), `conv_1d`, norm scales, biases, the
    embedding.
    """
    return name.rsplit("/", 1)[-1] == "weight"


def decay_mask(params: Any) -> Any:
    """A pytree of bools shaped like params: True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(lambda path, _: decays(parameter_name(path)), params)


def make_optimizer(config: OptimConfig, *, steps: int) -> optax.GradientTransformation:
    """Clip, then AdamW or Muon. `steps` is the length of the schedule: all steps of the run."""
    learning_rate = learning_rate_schedule(config, steps)
    if config.algorithm == "muon":
        algorithm = muon(
            learning_rate,
            beta=config.momentum,
            eps=config.eps,
            weight_decay=config.weight_decay,
            weight_decay_mask=decay_mask,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=MUON_RMS,
        )
    else:
        algorithm = optax.adamw(
            learning_rate,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        )
    return promoting(optax.chain(optax.clip_by_global_norm(config.clip_norm), algorithm))


def promoting(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same, also where JAX is strict about dtypes: optax raises a Python float to the power of
    an int32 counter."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)


def _matrices(params: Any) -> Any:
    """Which parameters Muon takes, and how each is a matrix: the weights [J, I] of linear layers;
    a leading dimension of stacked layers is a batch of them."""

    def one(path: tuple[Any, ...], param: jax.Array) -> MuonDimensionNumbers | None:
        if not decays(parameter_name(path)):
            return None
        return MuonDimensionNumbers(param.ndim - 1, param.ndim - 2)

    return jax.tree_util.tree_map_with_path(one, params)
