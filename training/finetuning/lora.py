# SPDX-License-Identifier: Apache-2.0
"""LoRA: the model frozen, and beside each chosen linear layer a trained product of low rank.

    y = x W^T + b + alpha / rank (x A) B          W [J, I], A [I, rank], B [rank, J]

(arXiv 2106.09685). A is random and B zero, so training starts from the base model. Qwix makes the
adapted model: its rules choose the layers, its interception puts the product in while the model
runs, its names and initial values are the adapters'. What Qwix intercepts by itself, jax's
`dot_general`, does not serve here: in bfloat16 ours stands inside of a custom gradient, with
scanned or recomputed layers it runs on a copy of the module, and with few rows the weight is its
first factor. So GriffinLora intercepts whole linear layers, and the adapters are made beforehand
instead of by a first run (docs/finetuning.md).

Adapters are float32 whatever the base is. On a mesh they lie as sharding.py says.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import qwix
from flax import nnx
from jax.sharding import Mesh

from checkpoints import adapters
from recurrentgemma import parallel, sharding
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import param_shapes
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin, canonical_names
from recurrentgemma.layers import Linear, matmul
from training.finetuning.lora_config import LoraConfig as LoraConfig

A, B = "weight_lora_a", "weight_lora_b"  # Qwix's names, beside `weight`
RUNS = "_run"  # the method of Griffin that everything else calls
LINEAR = "recurrentgemma.layers.Linear.__call__"


class GriffinLora(qwix.LoraProvider):
    """Qwix's provider of LoRA, with our linear layer as the operation that it intercepts."""

    def __init__(self, rule: qwix.LoraRule) -> None:
        super().__init__([rule])
        self._rule = rule

    def get_intercept_map(self) -> dict[str, Callable[..., Any]]:
        return {LINEAR: self.linear}

    def process_model_inputs(self, model: Any, model_args: Any, model_kwargs: Any) -> Any:
        return model, model_args, model_kwargs  # Qwix counts operations of a name; ours is one

    def linear(self, layer: Any, x: jax.Array) -> jax.Array:
        """A linear layer with its adapter, if it has one."""
        y = layer(x)  # interception is off in here: the layer by itself
        if not re.fullmatch(self._rule.module_path, _joined(layer.qwix_path)):
            return y
        a_IR, b_RJ = getattr(layer, A)[...], getattr(layer, B)[...]
        if _over_tensor(layer.qwix_path):  # each device has some of J: a part of a's gradient
            a_IR = parallel.replicate(a_IR, "tensor")
        z = matmul(x, a_IR)
        if layer.sums:
            z = parallel.total(z, "tensor")
        return y + matmul(z, b_RJ) * (self._rule.alpha / self._rule.rank)


def adapted_layers(config: GriffinConfig, lora: LoraConfig) -> dict[str, tuple[int, int]]:
    """The chosen layers by canonical name, each with its weight's shape [J, I].

    Raises:
      ValueError: no layer has such a name, or one is smaller than the rank.
    """
    every = {
        name.removesuffix("/weight"): shape
        for name, shape in param_shapes(config).items()
        if name.endswith("/weight")
    }
    chosen = {name: s for name, s in every.items() if re.fullmatch(lora.layers, name)}
    if not chosen:
        raise UserError(
            f"lora.layers={lora.layers!r} is the name of no linear layer; they are "
            f"{', '.join(every)}"
        )
    for name, shape in chosen.items():
        if lora.rank > min(shape):
            raise UserError(
                f"lora.rank={lora.rank} is larger than {min(shape)}, a side of {name}: choose a "
                f"smaller rank, or other layers with lora.layers"
            )
    return {name: (shape[0], shape[1]) for name, shape in chosen.items()}


def adapt(model: Griffin, lora: LoraConfig, *, seed: int, mesh: Mesh | None = None) -> Griffin:
    """The model with fresh adapters, which gives the same logits; its own parameters are shared.

    The adapters' first values follow from the seed and the layer's name, on every mesh and whether
    layers are scanned or not. The model may be of jax.ShapeDtypeStructs.

    Raises:
      ValueError: as adapted_layers; or layers are scanned, and only some of those that are stacked
        together are chosen.
    """
    config = model.config
    chosen = adapted_layers(config, lora)
    graphdef, params = nnx.split(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    bare = nnx.merge(graphdef, shapes)
    paths = _paths(bare, chosen)
    rule = qwix.LoraRule(
        module_path="|".join(re.escape(_joined(path)) for path in paths),
        rank=lora.rank,
        alpha=lora.alpha,
    )
    with warnings.catch_warnings():  # Qwix 0.1.8 walks the modules by Flax's former name for it
        warnings.filterwarnings("ignore", "The 'm.iter_modules", DeprecationWarning)
        # Without a first run: Qwix's would leave the parameters that it makes inside of jit.
        made: Any = qwix.apply_lora_to_model(
            bare, GriffinLora(rule), methods=(RUNS,), rngs=nnx.Rngs(seed), skip_nnx_init=True
        )
    order = [name.removesuffix("/weight") for name in param_shapes(config)]
    key = jax.random.key(seed)

    def first_values() -> dict[str, jax.Array]:
        values = {}
        for path, names in paths.items():
            keys = [jax.random.fold_in(key, order.index(name)) for name in names]
            outputs, inputs = chosen[names[0]]
            drawn = [rule.lora_a_initializer(key, (inputs, lora.rank), jnp.float32) for key in keys]
            zeros = [
                rule.lora_b_initializer(key, (lora.rank, outputs), jnp.float32) for key in keys
            ]
            for name, layers in ((A, drawn), (B, zeros)):
                stacked = path[0] == "groups"
                values["/".join([*map(str, path), name])] = (
                    jnp.stack(layers) if stacked else layers[0]
                )
        return values

    places = None
    if mesh is not None:
        places = sharding.shardings(mesh, jax.eval_shape(first_values))
    values = jax.jit(first_values, out_shardings=places)()
    for path, module in nnx.iter_modules(made):
        if path in paths:
            for name in (A, B):
                setattr(module, name, nnx.LoRAParam(values[_joined((*path, name))]))
    graphdef, fresh, _ = nnx.split(made, nnx.LoRAParam, ...)
    return nnx.merge(graphdef, fresh, params)


def split(model: Griffin) -> tuple[nnx.GraphDef[Griffin], nnx.State, nnx.State]:
    """(structure, adapters to train, all else), as make_train_step takes them:

    graphdef, params, frozen = split(adapt(model, lora, seed=0))
    step = make_train_step(graphdef, tx)
    train_state, metrics = step(init_train_state(params, tx), batch, frozen)
    """
    graphdef, params, frozen = nnx.split(model, nnx.LoRAParam, ...)
    return graphdef, params, frozen


def flat_adapters(model: Griffin) -> dict[str, jax.Array]:
    """The adapters by canonical name, layer by layer: `blocks.0/mlp_block/ffw_up/weight_lora_a`."""
    return _flat(model.config, nnx.state(model, nnx.LoRAParam))


def with_adapters(model: Griffin, flat: Mapping[str, jax.Array]) -> Griffin:
    """An adapted model with other values of its adapters.

    Raises:
      ValueError: they are not the adapters of this model's layers, or of another rank.
    """
    graphdef, params, frozen = split(model)
    have = flat_adapters(model)
    for name in have.keys() ^ flat.keys():
        what = "missing" if name in have else "none of this model's (see lora.layers)"
        raise UserError(f"adapter {name!r} is {what}")
    for name, value in have.items():
        if flat[name].shape != value.shape:
            raise UserError(
                f"adapter {name!r} has shape {flat[name].shape}; expected {value.shape}"
            )

    def replaced(path: tuple, old: Any) -> Any:
        values = [flat[name] for name in canonical_names(model.config, path)]
        return old.replace(jnp.stack(values) if path[0] == "groups" else values[0])

    leaves = [(path, replaced(path, old)) for path, old in nnx.to_flat_state(params)]
    return nnx.merge(graphdef, nnx.from_flat_state(leaves), frozen)


def load(folder: str | Path, model: Griffin) -> Griffin:
    """The adapted model with the adapters that a run, or PEFT, wrote.

    Raises:
      ValueError: they are damaged, or of other layers, or of another rank.
    """
    return with_adapters(model, jax.tree.map(jnp.asarray, adapters.read(folder).flat()))


def merge_into(model: Griffin, lora: LoraConfig) -> dict[str, jax.Array]:
    """The parameters of a plain model with the same logits to rounding, by canonical name.

    Weight and adapters are added in float32 and rounded once to the weight's dtype.
    """
    pairs = flat_adapters(model)
    params = _flat(model.config, nnx.state(model, nnx.All(nnx.Param, nnx.Not(nnx.LoRAParam))))
    for name, weight_JI in params.items():
        if name.removesuffix("weight") + A in pairs:
            layer = name.removesuffix("weight")
            params[name] = _merged(weight_JI, pairs[layer + A], pairs[layer + B], lora.scale)
    return {name: params[name] for name in param_shapes(model.config)}


@jax.jit
def _merged(weight_JI: jax.Array, a_IR: jax.Array, b_RJ: jax.Array, scale: float) -> jax.Array:
    product = jnp.dot(a_IR, b_RJ, precision=jax.lax.Precision.HIGHEST).T
    return (weight_JI.astype(jnp.float32) + scale * product).astype(weight_JI.dtype)


def _flat(config: GriffinConfig, state: nnx.State) -> dict[str, jax.Array]:
    flat: dict[str, jax.Array] = {}
    for path, leaf in nnx.to_flat_state(state):
        value = leaf[...]
        values = value if path[0] == "groups" else [value]
        flat |= {name: values[i] for i, name in enumerate(canonical_names(config, path))}
    return flat


def _paths(model: Griffin, chosen: Mapping[str, Any]) -> dict[tuple, list[str]]:
    """The module path of each chosen layer, and the names of the layers that are stacked there."""
    paths = {}
    for path, module in nnx.iter_modules(model):
        if not isinstance(module, Linear):
            continue
        names = canonical_names(model.config, path)
        here = [name for name in names if name in chosen]
        if here and len(here) < len(names):
            absent = next(name for name in names if name not in chosen)
            raise UserError(
                f"lora.layers chooses {here[0]} and not {absent}, which are stacked because the "
                f"model scans its layers: choose layers by their kind alone, or set "
                f"model.scan_layers=False"
            )
        if here:
            paths[path] = names
    return paths


def _joined(path: tuple) -> str:
    return "/".join(map(str, path))


def _over_tensor(path: tuple) -> bool:
    """Whether a layer's outputs are divided over the tensor axis."""
    return sharding.MESH_AXES[sharding.logical_axes(f"{path[-1]}/weight")[0]] == "tensor"
