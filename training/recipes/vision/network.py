# SPDX-License-Identifier: Apache-2.0
"""A network as pure functions over plain pytrees, from its config.

    network = Network(MLPConfig(widths=(256, 256)), image_shape=(28, 28, 1), outputs=10)
    params, stats = network.init(jax.random.key(0))
    outputs, hidden = network.apply(params, stats, x_BHWC)...      # running statistics
    outputs, stats = network.train(params, stats, x_BHWC)          # the batch's statistics

params and stats are nested dictionaries of arrays, so that vmap, optax and removal of units work on
them as they are; stats is empty without batch norm. `head` is the last linear layer of each.
"""

import functools
from typing import Any, Protocol

import jax
from flax import nnx

from training.recipes.vision.layers import Outputs

Params = Any
Stats = Any


class NetworkConfig(Protocol):
    """Frozen dataclasses: MLPConfig, CNNConfig, ResNetConfig, ViTConfig."""

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """A newly initialised network, images to Outputs."""
        ...


def has_convolutions(config: Any) -> bool:
    """Of a NetworkConfig."""
    return config.kind in ("cnn", "conv", "vgg16", "resnet18", "resnet50")


class Network:
    """A config for images of one shape and so many outputs."""

    def __init__(self, config: NetworkConfig, *, image_shape: tuple[int, ...], outputs: int):
        self.config, self.image_shape, self.outputs = config, image_shape, outputs
        module = nnx.eval_shape(functools.partial(self._module, jax.random.key(0)))
        self._graphdef = nnx.split(module, nnx.Param, nnx.BatchStat, ...)[0]
        module.eval()
        self._graphdef_eval = nnx.split(module, nnx.Param, nnx.BatchStat, ...)[0]

    def init(self, key: jax.Array) -> tuple[Params, Stats]:
        """New parameters and running statistics. May be vmapped over keys."""
        _, params, stats, others = nnx.split(self._module(key), nnx.Param, nnx.BatchStat, ...)
        assert not jax.tree.leaves(others)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def apply(self, params: Params, stats: Stats, x_BHWC: jax.Array) -> Outputs:
        """With the running statistics of batch norms."""
        return nnx.merge(self._graphdef_eval, params, stats, {})(x_BHWC)

    def train(self, params: Params, stats: Stats, x_BHWC: jax.Array) -> tuple[Outputs, Stats]:
        """With the batch's statistics; and what the running ones have become."""
        module = nnx.merge(self._graphdef, params, stats, {})
        outputs = module(x_BHWC)
        return outputs, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    def _module(self, key: jax.Array) -> Any:
        return self.config.module(self.image_shape, self.outputs, rngs=nnx.Rngs(key))
