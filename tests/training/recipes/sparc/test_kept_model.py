# SPDX-License-Identifier: Apache-2.0
"""A model that is kept is the model that is loaded."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from recurrentgemma.errors import UserError
from tests.training.recipes.sparc.test_scene_study import ARM
from tests.training.recipes.sparc.things import NAMES
from training.recipes.sparc.kept_model import load_model, save_model
from training.recipes.sparc.towers import ImageText
from training.recipes.sparc.words import WordVocabulary


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, ImageText]:
    model = ImageText(ARM.towers(len(WordVocabulary(NAMES))), rngs=nnx.Rngs(3))
    params = nnx.state(model, nnx.Param)
    save_model(tmp_path / "model", params, model.config, WordVocabulary(NAMES), {"steps": 3})
    return tmp_path / "model", model


def test_saved_and_loaded(kept: tuple[Path, ImageText]):
    folder, model = kept
    loaded = load_model(folder)
    assert loaded.model.config == model.config
    assert isinstance(loaded.reader, WordVocabulary)
    assert loaded.reader.words == WordVocabulary(NAMES).words
    assert json.loads((folder / "model.json").read_text())["trained"] == {"steps": 3}
    before, after = (nnx.state(one, nnx.Param) for one in (model, loaded.model))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_none(kept: tuple[Path, ImageText], tmp_path: Path):
    folder, _ = kept
    with pytest.raises(UserError, match=r"train a model with `griffin recipe sparc --train"):
        load_model(tmp_path)
    settings = folder / "model.json"
    record = json.loads(settings.read_text())
    settings.write_text(json.dumps({**record, "names": ["apple"]}))
    with pytest.raises(UserError, match=r"things of 16 words, and its text tower reads"):
        load_model(folder)
    text = {**record["config"]["text"], "depth": 2}
    settings.write_text(json.dumps({**record, "config": {**record["config"], "text": text}}))
    with pytest.raises(UserError, match=r"is of another model than model\.json"):
        load_model(folder)
    for broken in ("{", json.dumps({"names": []}), json.dumps({**record, "config": {"no": 1}})):
        settings.write_text(broken)
        with pytest.raises(UserError, match="holds no model that can be read"):
            load_model(folder)
    settings.write_text(json.dumps(record))
    (folder / "model.safetensors").write_bytes(b"none")
    with pytest.raises(UserError, match="holds no model that can be read"):
        load_model(folder)
