# SPDX-License-Identifier: Apache-2.0
"""Which parameters are adapted: a model split into those and the frozen ones.

Adapted parameters are a dictionary by canonical name, float32 whatever the checkpoint holds, for an
update is often smaller than bfloat16 can tell. With many streams each has a leading axis of
streams; the frozen ones are shared.
"""

import dataclasses
import hashlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from checkpoints import hyper_adapters
from eval.dynamic.config import DynamicConfig
from recurrentgemma import adapters, params
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.griffin import Griffin
from recurrentgemma.hyper_adapters import CODE, HyperConfig, coded, normed, plain_code
from recurrentgemma.parameters import param_shapes
from recurrentgemma.params import Flat

NAMES = {  # of canonical names, what each choice adapts
    "all": ".*",
    "mlp": r".*/mlp_block/.*",
    "recurrence": r".*/rg_lru/.*",
    "attention": r".*/attention_block/.*",
    "biases": r"blocks\..*(/bias|/b)",
}
_LAYER = re.compile(r"blocks\.(\d+)/")


@dataclasses.dataclass(frozen=True)
class Form:
    """What is fixed of a split model, apart from its arrays; programs are compiled for one."""

    config: GriffinConfig
    graphdef: nnx.GraphDef[Griffin]
    tree: Any
    """The structure of the adapted parameters in the model, and the path of each."""
    paths: tuple[str, ...]
    lora_scale: float | None
    hyper: HyperConfig | None = None

    def merge(self, adapted: Flat, frozen: Any) -> Griffin:
        """The model with these parameters, inside of jit."""
        if self.hyper is not None:
            frozen, templates = frozen
            adapted = coded(self.config, self.hyper, templates, adapted[CODE])
        arrays = params.stack(self.config, adapted, self.paths)
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.tree, arrays.values()), frozen)


@dataclasses.dataclass(frozen=True)
class Split:
    """A model in two. `pretrained` are the adapted parameters as they start: the checkpoint's, or
    fresh adapters, or a code. With a code `frozen` is (what else the model holds, templates)."""

    form: Form
    pretrained: Flat
    frozen: Any
    base: Flat
    """All parameters of the checkpoint, by canonical name."""

    @property
    def templates_fingerprint(self) -> str | None:
        """Tells the templates of a code from others; None without."""
        if self.form.hyper is None:
            return None
        digest = hashlib.sha256(repr(self.form.hyper).encode())
        for name, x in sorted(self.frozen[1].items()):
            digest.update(name.encode() + np.asarray(x).tobytes())
        return digest.hexdigest()[:16]

    def flat(self, adapted: Flat) -> Flat:
        """All parameters by canonical name, of a model without adapters: they are added to the
        weights of their layers."""
        if self.form.lora_scale is None:
            return self.base | adapted
        if self.form.hyper is not None:
            adapted = coded(self.form.config, self.form.hyper, self.frozen[1], adapted[CODE])
        flat = dict(self.base)
        for name in adapted:
            if name.endswith(adapters.A):
                layer = name.rpartition("/")[0]
                a_IR, b_RJ = adapted[name], adapted[f"{layer}/{adapters.B}"]
                weight_JI = flat[f"{layer}/weight"].astype(jnp.float32)
                flat[f"{layer}/weight"] = weight_JI + self.form.lora_scale * (a_IR @ b_RJ).T
        return flat


def split(lm: LanguageModel, choices: DynamicConfig) -> Split:
    """The model of `lm`, split as the choices say.

    Raises UserError: they choose no parameter, or a layer that the model does not have.
    """
    config = dataclasses.replace(lm.config, scan_layers=False, remat="none")
    base = params.flat_params(lm.model)
    model = params.from_flat_params(config, base)
    if choices.parameters == "lora" and choices.learns:
        first = adapters.fresh_adapters(config, choices.lora, seed=choices.seed)
        fresh = {name: first[name] for name in adapted_names(config, choices)}
        model = adapters.attach(model, fresh, scale=choices.lora.scale)
        form, frozen = _form(model, nnx.LoRAParam, choices.lora.scale)
        return Split(form, fresh, frozen, base)
    if choices.parameters == "code" and choices.learns:
        return _split_code(model, base, choices)
    names = set(adapted_names(config, choices))

    def is_adapted(path: tuple, _: Any) -> bool:
        path_name = "/".join(str(key) for key in path if key != "value")
        return params.canonical_names(config, path_name)[0] in names

    pretrained = {name: x.astype(jnp.float32) for name, x in base.items() if name in names}
    form, frozen = _form(model, is_adapted, None)
    return Split(form, pretrained, frozen, base)


def _split_code(model: Griffin, base: Flat, choices: DynamicConfig) -> Split:
    """Raises UserError: there are no templates, or they are of another model."""
    adapters_of_tasks = hyper_adapters.read(choices.templates)
    adapters_of_tasks.check(model.config)
    hyper = adapters_of_tasks.hyper
    templates = {name: jnp.asarray(x) for name, x in adapters_of_tasks.templates.items()}
    codes = [normed(jnp.asarray(code)) for code in adapters_of_tasks.codes.values()]
    first_GM = jnp.mean(jnp.stack(codes), 0) if codes else plain_code(hyper)
    model = adapters.attach(model, templates, scale=hyper.scale)
    form, frozen = _form(model, nnx.LoRAParam, hyper.scale)
    form = dataclasses.replace(form, hyper=hyper)
    return Split(form, {CODE: normed(first_GM)}, (frozen, templates), base)


def _form(model: Griffin, chosen: Any, lora_scale: float | None) -> tuple[Form, nnx.State]:
    graphdef, adapted, frozen = nnx.split(model, chosen, ...)
    paths = tuple(params.by_path(adapted))
    return Form(model.config, graphdef, jax.tree.structure(adapted), paths, lora_scale), frozen


def adapted_names(config: GriffinConfig, choices: DynamicConfig) -> list[str]:
    """The canonical names of what the choices adapt.

    Raises UserError: they choose no parameter, or a layer that the model does not have.
    """
    within = layers(choices.layers, config.num_layers)
    if not choices.learns:
        return []
    if choices.parameters == "code":
        return [CODE]
    if choices.parameters == "lora":
        chosen = adapters.adapted_layers(config, choices.lora)
        pairs = [f"{name}/{which}" for name in chosen for which in (adapters.A, adapters.B)]
        names = [name for name in pairs if _layer(name) in within]
    else:
        pattern = re.compile(NAMES[choices.parameters])
        allowed = set(within) if choices.layers else {None, *within}
        names = [
            name
            for name in param_shapes(config)
            if pattern.fullmatch(name) and _layer(name) in allowed
        ]
    if not names:
        where = f" in layers={choices.layers!r}" if choices.layers else ""
        raise UserError(
            f"parameters={choices.parameters!r}: this model has none{where}; its blocks are "
            f"{', '.join(dict.fromkeys(config.block_types))}"
        )
    return names


def layers(text: str, count: int) -> tuple[int, ...]:
    """The layers that `4-7` or `0,2,5` names, of so many; all of them for "".

    Raises UserError: it is no such list, or the model has fewer.
    """
    if not text:
        return tuple(range(count))
    numbers: set[int] = set()
    for part in text.split(","):
        if not (ends := re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)):
            raise UserError(f"layers={text!r}: expected numbers and ranges, such as 4-7 or 0,2,5")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if not first <= last < count:
            raise UserError(f"layers={text!r}: the model has layers 0 to {count - 1}")
        numbers.update(range(first, last + 1))
    return tuple(sorted(numbers))


def _layer(name: str) -> int | None:
    match = _LAYER.match(name)
    return int(match[1]) if match else None
