# SPDX-License-Identifier: Apache-2.0
"""Hypernetwork adapters: low-rank templates that all tasks share, and a small code for a task.

    W(e) = W + scale sum_m e_m (A_m B_m)^T       A_m [I, r], B_m [r, J], e_m of the layer's group

A linear hypernetwork with low-rank modules, after Schug et al. (arXiv 2312.15001, section 3); their
theorem is of whole weights of small networks and says nothing about these. The code e has M numbers
for each of three groups of layers: the first block, the last one, and those between. It counts with
norm sqrt(M), and its length has no gradient, as in the authors' program; scale has 1 / sqrt(M).
B is zero at first, so that the model then gives the same logits (LoRA's habit).

All templates of a layer stand side by side, A [I, R] and B [R, J] with R = M r, by the names of a
LoRA; with a code they are one:

    templates = fresh_templates(config, hyper, seed=0)
    flat = coded(config, hyper, templates, code_GM)
    model = attach(model, flat, scale=hyper.scale)

Legend: G groups, M templates, R ranks of all of them, B rows, I inputs and J outputs of a layer.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from recurrentgemma.adapters import FIRST_A, A, B, adapted_layers
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.hyper_config import HyperConfig as HyperConfig
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import Flat

CODE = "hyper_code"  # among parameters that are learned by name
GROUPS = 3


def group_of(name: str, num_layers: int) -> int:
    """The group of a parameter of a block: 0 of the first, 2 of the last, 1 of those between."""
    layer = int(re.match(r"blocks\.(\d+)/", name)[1])  # type: ignore[index]
    return 0 if layer == 0 else 2 if layer == num_layers - 1 else 1


def hyper_layers(config: GriffinConfig, hyper: HyperConfig) -> dict[str, tuple[int, int]]:
    """The chosen layers by canonical name, each with its weight's shape [J, I].

    Raises UserError: no layer has such a name, or one is smaller than a template's rank.
    """
    lora = LoraConfig(rank=hyper.rank, alpha=hyper.alpha, layers=hyper.layers)
    try:
        return adapted_layers(config, lora)
    except UserError as error:
        raise UserError(str(error).replace("lora.", "hyper.")) from None


def fresh_templates(config: GriffinConfig, hyper: HyperConfig, *, seed: int) -> Flat:
    """Templates with which the model gives the same logits: A [I, R] as He's uniform
    initialisation draws it, B [R, J] zero. They follow from the seed and the layer's name.

    Raises UserError as hyper_layers.
    """
    order = [name.removesuffix("/weight") for name in param_shapes(config)]
    key = jax.random.key(seed)
    flat: Flat = {}
    for name, (outputs, inputs) in hyper_layers(config, hyper).items():
        layer_key = jax.random.fold_in(key, order.index(name))
        flat[f"{name}/{A}"] = FIRST_A(layer_key, (inputs, hyper.width), jnp.float32)
        flat[f"{name}/{B}"] = jnp.zeros((hyper.width, outputs), jnp.float32)
    return flat


def fresh_codes(hyper: HyperConfig, count: int, *, seed: int) -> jax.Array:
    """So many codes with independent directions, [count, G, M], each group's of norm sqrt(M)."""
    shape = (count, GROUPS, hyper.templates)
    return normed(jax.random.normal(jax.random.key(seed), shape))


def plain_code(hyper: HyperConfig) -> jax.Array:
    """[G, M], all templates alike: where a code begins that nothing is known of."""
    return jnp.ones((GROUPS, hyper.templates), jnp.float32)


def normed(code_GM: jax.Array) -> jax.Array:
    """Each group's code, its last axis, at norm sqrt(M). The factor has no gradient."""
    norm_G1 = jnp.linalg.norm(code_GM, axis=-1, keepdims=True)
    factor_G1 = code_GM.shape[-1] ** 0.5 / jnp.maximum(norm_G1, 1e-6)
    return code_GM * jax.lax.stop_gradient(factor_G1)


def coded(
    config: GriffinConfig, hyper: HyperConfig, templates: Mapping[str, Any], code: Any
) -> Flat:
    """The adapter of a code [G, M], by the names of a LoRA of rank R and scale hyper.scale. With a
    code for each row, [B, G, M], A is [B, I, R] and B stays [R, J]."""
    return coded_of_layers(config.num_layers, hyper, templates, code)


def coded_of_layers(
    num_layers: int, hyper: HyperConfig, templates: Mapping[str, Any], code: Any
) -> Flat:
    """`coded` of a model with so many blocks, which is all that it needs to know."""
    code_GM = normed(jnp.asarray(code))
    flat: Flat = {}
    for name, array in templates.items():
        if name.endswith(A):
            code_M = code_GM[..., group_of(name, num_layers), :]
            code_1R = jnp.repeat(code_M, hyper.rank, axis=-1)[..., None, :]
            array = (array if code_1R.ndim == 2 else array[None]) * code_1R
        flat[name] = array
    return flat


def check_templates(
    config: GriffinConfig, hyper: HyperConfig, templates: Mapping[str, Any], where: str
) -> None:
    """Raises UserError: they are not those of this model, or of these choices; it says where."""
    expected = {
        f"{name}/{which}": shape
        for name, (outputs, inputs) in hyper_layers(config, hyper).items()
        for which, shape in ((A, (inputs, hyper.width)), (B, (hyper.width, outputs)))
    }
    given = {name: tuple(array.shape) for name, array in templates.items()}
    if given == expected:
        return
    name = min(given.keys() ^ expected.keys(), default=None) or next(
        name for name in expected if given[name] != expected[name]
    )
    raise UserError(
        f"{where}: its templates are not of this model: {name!r} is "
        f"{list(given[name]) if name in given else 'missing'} there, and expected "
        f"{list(expected[name]) if name in expected else 'not at all'}; take the model that they "
        "were trained on"
    )


def code_of(hyper: HyperConfig, code: Any, where: str) -> jax.Array:
    """A code as float32 [G, M]. Raises UserError: it is of other templates, or not finite."""
    code = jnp.asarray(code, jnp.float32)
    if code.shape != (GROUPS, hyper.templates) or not bool(jnp.isfinite(code).all()):
        raise UserError(
            f"{where}: expected a code of {GROUPS} x {hyper.templates} finite numbers, and it is "
            f"{list(code.shape)}"
        )
    return code


def as_lora(hyper: HyperConfig) -> LoraConfig:
    """What a coded adapter is as a LoRA: rank R, and alpha so that its scale is hyper.scale."""
    return LoraConfig(rank=hyper.width, alpha=hyper.scale * hyper.width, layers=hyper.layers)
