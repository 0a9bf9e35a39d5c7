# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters beside the linear layers, one for all rows or one a row.

    y = x W^T + bias + scale (x A) B          W [J, I], A [I, R], B [R, J]

(LoRA, arXiv 2106.09685). A layer's adapter stands beside its weight and is applied alike by who
trains it (training/finetuning/lora.py), who adapts at test time (eval/dynamic/), who scores with it
and who serves with it. With an adapter
for each row of a batch, A is [B, I, R] and B [B, R, J]. Adapters are float32 whatever the base is,
and by canonical name, `blocks.0/mlp_block/ffw_up/weight_lora_a` and `..._b`, everywhere but in the
model.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from recurrentgemma import parallel, params, sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.layers import Linear, matmul
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.parameters import param_shapes

A, B = "weight_lora_a", "weight_lora_b"  # beside `weight`
FIRST_A = jax.nn.initializers.he_uniform()


class AdaptedLinear(Linear):
    """A linear layer with its adapter. It is a Linear, under the same name and with the same
    arrays, to all that looks for one; hence a subclass."""

    def __init__(self, linear: Linear, a: jax.Array, b: jax.Array, *, name: str, scale: float):
        self.sums, self.weight, self.bias = linear.sums, linear.weight, linear.bias
        self.weight_lora_a, self.weight_lora_b = nnx.LoRAParam(a), nnx.LoRAParam(b)
        self._name, self._scale = name, scale

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x) + self._scale * low_rank(
            x, self.weight_lora_a[...], self.weight_lora_b[...], name=self._name, sums=self.sums
        )


def low_rank(x: jax.Array, a: jax.Array, b: jax.Array, *, name: str, sums: bool) -> jax.Array:
    """(x A) B in x's dtype, beside the layer of this name; `sums` is that layer's.

    x [..., I] with a [I, R] and b [R, J]; or x [B, ..., I] with a [B, I, R], and b [R, J] or
    [B, R, J].
    """
    if over_tensor(name):  # each device has some of J: a part of a's gradient
        a = parallel.replicate(a, "tensor")
    z = _product(x, a)
    if sums:
        z = parallel.all_reduce(z, "tensor")
    return _product(z, b)


def _product(x: jax.Array, w: jax.Array) -> jax.Array:
    return matmul(x, w) if w.ndim == 2 else jax.vmap(matmul)(x, w)


def over_tensor(name: str) -> bool:
    """Whether a layer's outputs are divided over the tensor axis."""
    last = name.split("/")[-1]
    return sharding.MESH_AXES[sharding.logical_axes(f"{last}/weight")[0]] == "tensor"


def adapted_layers(config: GriffinConfig, lora: LoraConfig) -> dict[str, tuple[int, int]]:
    """The chosen layers by canonical name, each with its weight's shape [J, I].

    Raises:
      ValueError: no layer has such a name, or one is smaller than the rank.
    """
    linear = {
        name.removesuffix("/weight"): shape
        for name, shape in param_shapes(config).items()
        if name.endswith("/weight")
    }
    chosen = {name: s for name, s in linear.items() if re.fullmatch(lora.layers, name)}
    if not chosen:
        raise UserError(
            f"lora.layers={lora.layers!r} is the name of no linear layer; they are "
            f"{', '.join(linear)}"
        )
    for name, shape in chosen.items():
        if lora.rank > min(shape):
            raise UserError(
                f"lora.rank={lora.rank} is larger than {min(shape)}, a side of {name}: choose a "
                f"smaller rank, or other layers with lora.layers"
            )
    return {name: (shape[0], shape[1]) for name, shape in chosen.items()}


def fresh_adapters(config: GriffinConfig, lora: LoraConfig, *, seed: int) -> params.Flat:
    """Adapters of the chosen layers with which the model gives the same logits: A as He's uniform
    initialisation draws it, B zero. They follow from the seed and the layer's name.

    Raises:
      ValueError: as adapted_layers.
    """
    order = [name.removesuffix("/weight") for name in param_shapes(config)]
    key = jax.random.key(seed)
    flat: params.Flat = {}
    for name, (outputs, inputs) in adapted_layers(config, lora).items():
        layer_key = jax.random.fold_in(key, order.index(name))
        flat[f"{name}/{A}"] = FIRST_A(layer_key, (inputs, lora.rank), jnp.float32)
        flat[f"{name}/{B}"] = jnp.zeros((lora.rank, outputs), jnp.float32)
    return flat


def attach(model: Griffin, flat: Mapping[str, ArrayLike], *, scale: float) -> Griffin:
    """The model with these adapters, by canonical name; its own parameters are shared.

    scale is alpha / rank. Layers without adapters stay as they are. An adapter a row (A [B, I, R],
    and B [B, R, J] or one for all rows) is for a model on one device, which then takes batches of
    so many rows.

    Raises:
      ValueError: an adapter is of no linear layer, lacks its other half, or fits neither its layer
        nor its other half; or only some of the layers that are stacked together have adapters.
    """
    layers = {name.rpartition("/")[0] for name in flat}
    if odd := flat.keys() ^ {f"{layer}/{which}" for layer in layers for which in (A, B)}:
        raise ValueError(f"adapter {min(odd)!r} is not one of a pair {A} and {B}")
    arrays = {name: jnp.asarray(array) for name, array in flat.items()}
    graphdef, state = nnx.split(model)
    model = nnx.merge(graphdef, state)  # other modules, which hold the same arrays
    modules: dict[tuple, Any] = dict(nnx.iter_modules(model))
    paths = linear_layers(model, layers)
    if unknown := layers - {name for names in paths.values() for name in names}:
        raise ValueError(f"adapters of {min(unknown)!r}, which is no linear layer of the model")
    for path, names in paths.items():
        linear, joined = modules[path], "/".join(map(str, path))
        for name in names:
            pair = arrays[f"{name}/{A}"], arrays[f"{name}/{B}"]
            _check_fits(name, linear.weight.shape[-2:], *pair)
        a, b = params.stack(model.config, arrays, [f"{joined}/{A}", f"{joined}/{B}"]).values()
        setattr(modules[path[:-1]], path[-1], AdaptedLinear(linear, a, b, name=joined, scale=scale))
    return model


def _check_fits(name: str, weight_JI: tuple[int, ...], a: jax.Array, b: jax.Array) -> None:
    outputs, inputs = weight_JI
    rows, rank = a.shape[:-2], a.shape[-1]
    fits_b = b.shape in ((rank, outputs), (*rows, rank, outputs))
    if len(rows) > 1 or a.shape != (*rows, inputs, rank) or not fits_b:
        raise ValueError(
            f"adapters {a.shape} and {b.shape} do not fit {name!r} {tuple(weight_JI)}: expected "
            f"({inputs}, rank) and (rank, {outputs}), the first or both with a first axis of rows"
        )


def linear_layers(model: Griffin, chosen: Iterable[str]) -> dict[tuple, list[str]]:
    """The module path of each chosen linear layer, and the names of the layers stacked there.

    Raises:
      ValueError: only some of those are chosen.
    """
    chosen, paths = set(chosen), {}
    for path, module in nnx.iter_modules(model):
        if not isinstance(module, Linear):
            continue
        names = params.canonical_names(model.config, "/".join(map(str, path)))
        here = [name for name in names if name in chosen]
        if here and len(here) < len(names):
            absent = next(name for name in names if name not in chosen)
            raise PartOfAStack(here[0], absent)
        if here:
            paths[path] = names
    return paths


class PartOfAStack(ValueError):
    """Of the layers that a model stacks, because it scans them, one is chosen and another not."""

    def __init__(self, chosen: str, absent: str):
        super().__init__(f"{chosen} has adapters and {absent}, stacked with it, has none")
        self.chosen, self.absent = chosen, absent


def flat_adapters(model: Griffin) -> params.Flat:
    """A model's adapters by canonical name, layer by layer."""
    return params.unstack(model.config, params.by_path(nnx.state(model, nnx.LoRAParam)))
