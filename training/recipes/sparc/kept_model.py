# SPDX-License-Identifier: Apache-2.0
"""A trained pair of towers in a folder: model.safetensors, and model.json with the arm and the
vocabulary that it was trained on."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recurrentgemma.errors import UserError
from training.recipes.sparc.scene_study import SceneArm
from training.recipes.sparc.scenes import SceneConfig
from training.recipes.sparc.towers import ImageText
from training.recipes.sparc.words import WordVocabulary

ARRAYS, SETTINGS = "model.safetensors", "model.json"


class KeptModel(NamedTuple):
    """names: of the things that it knows."""

    model: ImageText
    arm: SceneArm
    names: tuple[str, ...]

    @property
    def words(self) -> WordVocabulary:
        return WordVocabulary(self.names)


def save_model(folder: Path, params: Any, arm: SceneArm, names: tuple[str, ...]) -> None:
    """Settings are written last, so that a folder with them is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {name: np.asarray(leaf) for name, leaf in _flat(params).items()}
    save_file(flat, folder / ARRAYS)
    settings = {"arm": dataclasses.asdict(arm), "names": list(names)}
    unfinished = folder / f"{SETTINGS}.unfinished"
    unfinished.write_text(json.dumps(settings, indent=1))
    os.replace(unfinished, folder / SETTINGS)


def load_model(folder: Path) -> KeptModel:
    """Raises UserError: there is none, or it is not whole."""
    if not (folder / SETTINGS).is_file():
        raise UserError(
            f"there is no {folder / SETTINGS}: train a model with `griffin recipe sparc --train "
            f"{folder}`"
        )
    try:
        settings = json.loads((folder / SETTINGS).read_text())
        fields = settings["arm"]
        fields["scene"] = SceneConfig(
            **{**fields["scene"], "things": tuple(fields["scene"]["things"])}
        )
        arm, names = SceneArm(**fields), tuple(settings["names"])
        arrays = load_file(folder / ARRAYS)
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise UserError(f"{folder} holds no model that can be read: {error}") from None
    config = arm.towers(len(WordVocabulary(names)))
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: ImageText(config, rngs=nnx.Rngs(0))))
    expected = _flat(abstract)
    if {n: a.shape for n, a in arrays.items()} != {n: a.shape for n, a in expected.items()}:
        raise UserError(f"{folder / ARRAYS} is of another model than {SETTINGS} beside it says")
    leaves = [jax.numpy.asarray(arrays[name]) for name in expected]
    params = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
    return KeptModel(nnx.merge(graphdef, params), arm, names)


def _flat(params: Any) -> dict[str, Any]:
    """Arrays by their places in the model."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
