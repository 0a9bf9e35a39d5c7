# SPDX-License-Identifier: Apache-2.0
"""The optimizers of dynamic evaluation, as optax transformations of one stream's parameters.

    updates, opt_state = tx.update(grads, opt_state, adapted, anchor=anchor)

The anchor is what all streams share: the parameters that decay leads to, and the gradient
statistics. config.OptimizerConfig has the equations.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from eval.dynamic import retention
from eval.dynamic.config import DynamicConfig, OptimizerConfig
from recurrentgemma.errors import UserError
from recurrentgemma.params import Flat


class Anchor(NamedTuple):
    """What all streams share. rms: root mean square of each parameter's gradient over training
    text; mean_rms: its mean over each tensor, averaged over the tensors; moves: of each tensor 1,
    or 0 where its rms is zero. These three are None without statistics."""

    pretrained: Flat
    rate: jax.Array
    decay: jax.Array
    rms: Flat | None = None
    mean_rms: jax.Array | None = None
    moves: Flat | None = None
    retain: jax.Array | None = None  # the weight of the retention loss
    fisher: Flat | None = None  # what it weighs each parameter by; None: all alike


def anchored(
    pretrained: Flat, choices: DynamicConfig, mean_square: Flat | None, segments: int = 1
) -> Anchor:
    """The anchor. mean_square: of gradients over so many segments (statistics.py).

    Raises UserError: the optimizer needs them and there are none, or they are of other parameters.
    """
    config, retain = choices.optimizer, choices.retain
    rate, decay, weight = map(jnp.float32, (config.rate, config.decay, retain.weight))
    if not choices.needs_statistics:
        return Anchor(pretrained, rate, decay, retain=weight)
    if mean_square is None:
        scaled = "optimizer.algorithm=rms scales"
        if config.algorithm != "rms":
            scaled = f"retain.method={retain.method} weighs parameters"
        raise UserError(
            f"{scaled} by gradient statistics, and there are none: give training text to make "
            "them of (--statistics.data), or --statistics.file"
        )
    if absent := pretrained.keys() - mean_square.keys():
        raise UserError(
            f"the gradient statistics lack {len(absent)} of the adapted parameters, such as "
            f"{min(absent)!r}: make them anew, with the same choice of parameters"
        )
    fisher = None
    if retain.method in ("ewc", "root-ewc"):
        # A segment's gradient is of a mean over its tokens.
        fisher = {name: mean_square[name] * choices.segment_length for name in pretrained}
        fisher = retention.root(fisher) if retain.method == "root-ewc" else fisher
    if config.algorithm != "rms":
        return Anchor(pretrained, rate, decay, retain=weight, fisher=fisher)
    count = segments if config.sum_of_squares else 1
    rms = {name: jnp.sqrt(mean_square[name] * count) for name in pretrained}
    mean_rms = jnp.mean(jnp.stack([jnp.mean(x) for x in rms.values()]))
    moves = {name: jnp.any(x > 0).astype(jnp.float32) for name, x in rms.items()}
    return Anchor(pretrained, rate, decay, rms, mean_rms, moves, weight, fisher)


@lru_cache(64)
def make_tx(
    config: OptimizerConfig, tx: optax.GradientTransformation | None = None
) -> optax.GradientTransformationExtraArgs:
    """The transformation that the config says; or `tx`, any of optax, in place of its algorithm and
    learning rate: clipping and decay are added to it. It takes the rate and the decay from the
    anchor, so that configs with others share what is compiled."""
    own: Any = tx
    if own is None:
        own = {
            "none": lambda: optax.set_to_zero(),
            "sgd": lambda: _scaled(optax.identity()),
            "rms": lambda: _scaled(_over_rms(_eps(config))),
            "adam": lambda: _scaled(
                optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=_eps(config))
            ),
        }[config.algorithm]()
    parts: list[Any] = [optax.with_extra_args_support(own)]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.decay:
        parts.append(_decay(config))
    chained = optax.chain(*parts)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        # optax mixes Python floats with int32 counters, which strictness forbids.
        with jax.numpy_dtype_promotion("standard"):
            return chained.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(chained.init, update)


def _eps(config: OptimizerConfig) -> float:
    assert config.epsilon is not None, config.algorithm
    return config.epsilon


def _scaled(tx: Any) -> optax.GradientTransformationExtraArgs:
    """What tx says, times minus the anchor's rate."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, state = optax.with_extra_args_support(tx).update(updates, state, params, **extra)
        anchor: Anchor = extra["anchor"]
        return jax.tree.map(lambda u: -anchor.rate * u, updates), state

    return optax.GradientTransformationExtraArgs(tx.init, update)


def _over_rms(eps: float) -> optax.GradientTransformationExtraArgs:
    """g / (R + eps). A tensor whose statistics are all zero stays as it is: so LoRA's A, which has
    no gradient while B is zero, and only B learns."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        anchor: Anchor = extra["anchor"]
        assert anchor.rms is not None
        assert anchor.moves is not None
        return {
            name: anchor.moves[name] * g / (anchor.rms[name] + eps) for name, g in updates.items()
        }, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _decay(config: OptimizerConfig) -> optax.GradientTransformationExtraArgs:
    """+ decay N (pretrained - params); N is 1 without statistics."""

    def share(name: str, anchor: Anchor) -> Any:
        if anchor.rms is None:
            return anchor.decay
        scale = anchor.rms[name]
        if config.normalise_decay:
            assert anchor.mean_rms is not None
            scale = scale / anchor.mean_rms
        if config.clip_decay:
            scale = jnp.minimum(scale, 1 / anchor.decay)
        return anchor.decay * scale

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        anchor: Anchor = extra["anchor"]
        return {
            name: u + share(name, anchor) * (anchor.pretrained[name] - params[name])
            for name, u in updates.items()
        }, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
