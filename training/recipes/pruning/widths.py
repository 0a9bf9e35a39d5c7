# SPDX-License-Identifier: Apache-2.0
"""Which arrays of a network share a width, and what becomes of them when units go.

    widths = network_widths(config)                   {"hidden_0": 256, "hidden_1": 256}
    shared = shared_axes(config, image_shape, outputs)
    smaller = removed(tree, shared, {"hidden_0": kept_K})

A width is the number of units of a layer, or of a residual stream with all layers that write to it
or read it. Nobody writes down which axes of which arrays belong to it: each width is set to a prime
of its own, and what then divides a shape is an axis of that width. So it holds for parameters,
running statistics and an optimizer's moments alike, and with a leading axis of seeds.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from training.recipes.vision.bottleneck import BottleneckConfig
from training.recipes.vision.mlp import CNNConfig, MLPConfig
from training.recipes.vision.network import Network, NetworkConfig
from training.recipes.vision.resnet import ResNetConfig
from training.recipes.vision.vgg import VGGConfig
from training.recipes.vision.vit import ViTConfig

Widths = dict[str, int]
Path = tuple[str, ...]


class Axis(NamedTuple):
    """One axis of one array. axis: from the end. repeats: unit i stands there at i, i + units, ...:
    where positions were flattened. reads: the array is a kernel that reads the units; the others
    make them."""

    path: Path
    axis: int
    repeats: int
    reads: bool


def network_widths(config: NetworkConfig) -> Widths:
    """By name: a layer's, or `stream_0` and so on of a ResNet's stage."""
    match config:
        case MLPConfig():
            return {f"hidden_{i}": units for i, units in enumerate(config.widths)}
        case CNNConfig():
            return {f"hidden_{i}": n for i, n in enumerate((*config.channels, *config.widths))}
        case VGGConfig():
            return {
                f"conv_{stage}_{i}": units
                for stage, channels in enumerate(config.channels)
                for i, units in enumerate(channels)
            } | {f"dense_{i}": units for i, units in enumerate(config.widths)}
        case ResNetConfig():
            streams = {f"stream_{stage}": units for stage, units in enumerate(config.streams)}
            inner = zip(_blocks(config), config.inner_widths(), strict=True)
            return streams | {f"{block}/first": units for block, units in inner}
        case BottleneckConfig():
            streams = {f"stream_{stage}": units for stage, units in enumerate(config.streams)}
            inner = {
                f"{block}/{which}": units
                for block, pair in zip(_blocks(config), config.inner_widths(), strict=True)
                for which, units in zip(("first", "second"), pair, strict=True)
            }
            return {"stem": config.stem} | streams | inner
        case ViTConfig():
            widths = config.mlp_widths or (4 * config.width,) * config.depth
            return {f"block_{i}": units for i, units in enumerate(widths)}
    raise TypeError(f"{config} has no description of its widths")


def with_widths(config: Any, widths: Mapping[str, int]) -> Any:
    """The config with these widths, all of them by name."""
    values = tuple(widths[name] for name in network_widths(config))
    match config:
        case MLPConfig():
            return dataclasses.replace(config, widths=values)
        case CNNConfig():
            count = len(config.channels)
            return dataclasses.replace(config, channels=values[:count], widths=values[count:])
        case VGGConfig():
            rows = iter(values)
            channels = tuple(tuple(next(rows) for _ in stage) for stage in config.channels)
            return dataclasses.replace(config, channels=channels, widths=tuple(rows))
        case ResNetConfig():
            count = len(config.streams)
            return dataclasses.replace(config, streams=values[:count], inner=values[count:])
        case BottleneckConfig():
            count = 1 + len(config.streams)
            inner = tuple(zip(values[count::2], values[count + 1 :: 2], strict=True))
            return dataclasses.replace(config, stem=values[0], streams=values[1:count], inner=inner)
        case ViTConfig():
            return dataclasses.replace(config, mlp_widths=values)
    raise TypeError(f"{config} has no description of its widths")


def layers_of(config: NetworkConfig) -> dict[str, list[str]]:
    """Width -> the layers in Outputs.hidden that have its units. A unit is dead where it is dead in
    all of them."""
    layers = {name: [name] for name in network_widths(config)}
    if isinstance(config, ResNetConfig | BottleneckConfig):
        for block in _blocks(config):
            stream = f"stream_{block.split('_')[1]}"
            layers[stream] = [*(n for n in layers[stream] if n != stream), block]
    if isinstance(config, ResNetConfig):
        layers["stream_0"] = ["stem", *layers["stream_0"]]
    return layers


def is_needed(config: NetworkConfig, width: str) -> bool:
    """Whether nothing gets past a width with no unit: there is no other way around it."""
    if isinstance(config, ResNetConfig | BottleneckConfig):
        return "/" not in width
    return not isinstance(config, ViTConfig)


@functools.lru_cache(maxsize=32)
def shared_axes(
    config: Any, image_shape: tuple[int, ...], outputs: int
) -> Mapping[str, tuple[Axis, ...]]:
    """Width -> its axes, over parameters and running statistics."""
    names = list(network_widths(config))
    primes = dict(zip(names, _primes(1009, len(names)), strict=True))
    network = Network(with_widths(config, primes), image_shape=image_shape, outputs=outputs)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    axes: dict[str, list[Axis]] = {name: [] for name in names}
    for tree in shapes:
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            for axis, size in enumerate(leaf.shape):
                for name, prime in primes.items():
                    if size % prime == 0:
                        from_end = axis - leaf.ndim
                        reads = leaf.ndim > 1 and from_end == -2
                        axes[name].append(Axis(_names(path), from_end, size // prime, reads))
    return {name: tuple(listed) for name, listed in axes.items()}


def removed(tree: Any, shared: Mapping[str, tuple[Axis, ...]], keep: Mapping[str, Any]) -> Any:
    """The tree with only the units `keep` of each width that is named there: indices [K], or [S, K]
    where arrays have a leading axis of seeds. Parameters, statistics, or an optimizer's state."""
    units = {name: jnp.asarray(index) for name, index in keep.items()}
    by_path = _by_path(shared)

    def cut(path: Any, array: jax.Array) -> jax.Array:
        for name, axis in by_path.get(_parameter(path, by_path), ()):
            if name in units:
                array = _taken(array, units[name], axis)
        return array

    return jax.tree_util.tree_map_with_path(cut, tree)


def scaled(tree: Any, shared: Mapping[str, tuple[Axis, ...]], gates: Mapping[str, Any]) -> Any:
    """Parameters in which each unit's readers are multiplied by its gate [units]: the network in
    which the unit's activation is. For a residual stream this gates all that reads it."""
    by_path = _by_path(shared)

    def gate(path: Any, array: jax.Array) -> jax.Array:
        for name, axis in by_path.get(_parameter(path, by_path), ()):
            if axis.reads and name in gates:
                array = array * _along(gates[name], axis, array.ndim)
        return array

    return jax.tree_util.tree_map_with_path(gate, tree)


def silenced(tree: Any, shared: Mapping[str, tuple[Axis, ...]], masks: Mapping[str, Any]) -> Any:
    """Parameters, or an optimizer's state, in which all that belongs to a unit with mask 0 is zero:
    with any activation that is 0 at 0 it has no output and no gradient."""
    by_path = _by_path(shared)

    def mask(path: Any, array: jax.Array) -> jax.Array:
        for name, axis in by_path.get(_parameter(path, by_path), ()):
            if name in masks:
                array = array * _along(masks[name], axis, array.ndim)
        return array

    return jax.tree_util.tree_map_with_path(mask, tree)


def parameter_count(config: Any, image_shape: tuple[int, ...], outputs: int) -> int:
    """By shapes, without a network."""
    network = Network(config, image_shape=image_shape, outputs=outputs)
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _along(gate: jax.Array, axis: Axis, ndim: int) -> jax.Array:
    values = jnp.tile(gate, axis.repeats)
    return values.reshape((1,) * (ndim + axis.axis) + (-1,) + (1,) * (-1 - axis.axis))


def _taken(array: jax.Array, index: jax.Array, axis: Axis) -> jax.Array:
    units = array.shape[axis.axis] // axis.repeats

    def take(array: jax.Array, index_K: jax.Array) -> jax.Array:
        places = (units * jnp.arange(axis.repeats)[:, None] + index_K[None]).reshape(-1)
        return jnp.take(array, places, axis.axis)

    return jax.vmap(take)(array, index) if index.ndim == 2 else take(array, index)


def _by_path(shared: Mapping[str, tuple[Axis, ...]]) -> dict[Path, list[tuple[str, Axis]]]:
    by_path: dict[Path, list[tuple[str, Axis]]] = {}
    for name, axes in shared.items():
        for axis in axes:
            by_path.setdefault(axis.path, []).append((name, axis))
    return by_path


def _names(path: Any) -> Path:
    return tuple(str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))


def _parameter(path: Any, known: Mapping[Path, Any]) -> Path:
    """The path of the parameter that an array belongs to: an optimizer's moment of it ends so."""
    names = _names(path)
    return next((names[i:] for i in range(len(names)) if names[i:] in known), ())


def _blocks(config: ResNetConfig | BottleneckConfig) -> list[str]:
    return [
        f"block_{stage}_{number}"
        for stage, count in enumerate(config.blocks)
        for number in range(count)
    ]


def _primes(first: int, count: int) -> list[int]:
    primes, number = [], first
    while len(primes) < count:
        if all(number % divisor for divisor in range(2, int(number**0.5) + 1)):
            primes.append(number)
        number += 1
    return primes
