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
from collections.abc import Callable
from typing import Any

import jax
import qwix
from flax import nnx
from jax.sharding import Mesh

from recurrentgemma import adapters, params, sharding
from recurrentgemma.adapters import A, B, adapted_layers, fresh_adapters
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.lora_config import LoraConfig as LoraConfig

RUNS = "hidden"  # the method of Griffin that everything else calls
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
        a_IR, b_RJ, name = getattr(layer, A)[...], getattr(layer, B)[...], layer.qwix_path[-1]
        z = adapters.low_rank(x, a_IR, b_RJ, name=name, sums=layer.sums)
        return y + z * (self._rule.alpha / self._rule.rank)


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
    graphdef, plain = nnx.split(model)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), plain)
    bare = nnx.merge(graphdef, shapes)
    try:
        paths = adapters.linear_layers(bare, chosen)
    except adapters.PartOfAStack as error:
        raise UserError(
            f"lora.layers chooses {error.chosen} and not {error.absent}, which are stacked because "
            "the model scans its layers: choose layers by their kind alone, or set "
            "model.scan_layers=False"
        ) from error
    rule = qwix.LoraRule(
        module_path="|".join(re.escape(_joined(path)) for path in paths),
        rank=lora.rank,
        alpha=lora.alpha,
    )
    with warnings.catch_warnings():  # Qwix 0.1.8 walks the modules by Flax's former name for it
        warnings.filterwarnings("ignore", "The 'm.iter_modules", DeprecationWarning)
        # Without a first run: Qwix's would leave the parameters that it makes inside of jit.
        adapted: Any = qwix.apply_lora_to_model(
            bare, GriffinLora(rule), methods=(RUNS,), rngs=nnx.Rngs(seed), skip_nnx_init=True
        )

    def first_values() -> params.Flat:
        flat = fresh_adapters(config, lora, seed=seed)
        return params.stack(
            config, flat, [f"{_joined(p)}/{which}" for p in paths for which in (A, B)]
        )

    places = None
    if mesh is not None:
        places = sharding.shardings(mesh, jax.eval_shape(first_values))
    values = jax.jit(first_values, out_shardings=places)()
    for path, module in nnx.iter_modules(adapted):
        if path in paths:
            for which in (A, B):
                setattr(module, which, nnx.LoRAParam(values[f"{_joined(path)}/{which}"]))
    graphdef, fresh, _ = nnx.split(adapted, nnx.LoRAParam, ...)
    return nnx.merge(graphdef, fresh, plain)


def split(model: Griffin) -> tuple[nnx.GraphDef[Griffin], nnx.State, nnx.State]:
    """(structure, adapters to train, all else), as make_train_step takes them:

    graphdef, params, frozen = split(adapt(model, lora, seed=0))
    step = make_train_step(graphdef, tx)
    train_state, metrics = step(init_train_state(params, tx), batch, frozen)
    """
    graphdef, trained, frozen = nnx.split(model, nnx.LoRAParam, ...)
    return graphdef, trained, frozen


def _joined(path: tuple) -> str:
    return "/".join(map(str, path))
