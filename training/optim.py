# SPDX-License-Identifier: Apache-2.0
"""AdamW with warm-up and cosine decay, clipping by global norm, and weight decay on the
weights of linear layers only.

RecurrentGemma (section 2) takes the parameters of the RG-LRU out of weight decay; DeepMind's
fine-tuning mask also takes out embeddings, norm scales and biases called `b`, but decays the biases
of linear layers, which are called `bias`. Here decay is opt-in: only the weights of linear layers
decay, so a parameter of a new kind never decays by accident. Everything else is optax.
"""

from dataclasses import dataclass
from typing import Any

import jax
import optax


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW: the step is -lr(t) (m / (sqrt(v) + eps) + weight_decay * parameter), gradients clipped
    before."""

    learning_rate: float = 3e-3
    """Highest learning rate, reached after warmup_steps."""
    warmup_steps: int = 100
    """Steps of linear warm-up from 0."""
    final_fraction: float = 0.1
    """The cosine ends at this fraction of learning_rate, at the last step of training."""
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Times the learning rate; on the weights of linear layers only."""
    clip_norm: float = 1.0
    """Gradients of a larger global norm are scaled down to it."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("learning_rate", 0.0, 10.0),
            ("warmup_steps", 0, float("inf")),
            ("final_fraction", 0.0, 1.0),
            ("beta1", 0.0, 0.9999),
            ("beta2", 0.0, 0.99999),
            ("eps", 1e-20, 1.0),
            ("weight_decay", 0.0, 10.0),
            ("clip_norm", 1e-9, float("inf")),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}={value!r}: expected a value between {low} and {high}")


def learning_rate_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Linear from 0 to the peak over warmup_steps, then a cosine to final_fraction of it at
    `steps`."""
    if config.warmup_steps >= steps:
        raise ValueError(
            f"warmup_steps={config.warmup_steps} leaves nothing of steps={steps}; "
            f"expected fewer warm-up steps than steps"
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


def parameter_name(path: tuple[Any, ...]) -> str:
    """Slash-joined name of a leaf from its pytree path, whatever containers the path goes
    through."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")


def decay_mask(params: Any) -> Any:
    """A pytree of bools shaped like params: True where weight decay applies."""
    return jax.tree_util.tree_map_with_path(lambda path, _: decays(parameter_name(path)), params)


def make_optimizer(config: OptimConfig, *, steps: int) -> optax.GradientTransformation:
    """Clip, then AdamW. `steps` is the length of the schedule: all steps of the run."""
    tx = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax raises a Python float to the power of an int32 counter, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            return tx.update(updates, state, params)

    return optax.GradientTransformation(tx.init, update)
