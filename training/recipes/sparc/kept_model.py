# SPDX-License-Identifier: Apache-2.0
"""A trained pair of towers in a folder: model.safetensors, and model.json with its config, what it
was trained on, and the vocabulary of its captions: the names of scenes' things; without them a
tokenizer lies beside it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recurrentgemma.config_json import from_json, to_json
from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer, find_tokenizer, save_tokenizer
from training.recipes.sparc.towers import ImageText, PairConfig
from training.recipes.sparc.words import WordVocabulary

ARRAYS, SETTINGS = "model.safetensors", "model.json"
Reader = WordVocabulary | Tokenizer


class KeptModel(NamedTuple):
    """reader: of its captions."""

    model: ImageText
    reader: Reader

    def marked(self, words: Sequence[str]) -> tuple[list[int], dict[str, slice]]:
        """The ids of these words as one caption, and which of them are each word's; of scenes'
        words those that stand for a thing or a colour.

        Raises UserError: a word is not of the vocabulary, or has no token of its own.
        """
        if isinstance(self.reader, WordVocabulary):
            ids = self.reader.encode(" ".join(words))
            content = self.reader.is_content(np.array(ids))
            return ids, {
                word: slice(place, place + 1) for place, word in enumerate(words) if content[place]
            }
        ids = self.reader.encode(" ".join(words))
        ends = [
            _alike(self.reader.encode(" ".join(words[:count])), ids)
            for count in range(len(words) + 1)
        ]
        for word, start, end in zip(words, ends[:-1], ends[1:], strict=True):
            if end <= start:
                raise UserError(f"{word!r} has no token of its own: write it between other words")
        return ids, {
            word: slice(start, end)
            for word, start, end in zip(words, ends[:-1], ends[1:], strict=True)
        }


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids at their beginning are the same."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def save_model(
    folder: Path,
    params: Any,
    config: PairConfig,
    reader: Reader,
    trained: Mapping[str, Any],
) -> None:
    """trained: how, JSON values. Settings are written last, so that a folder with them is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = {name: np.asarray(leaf) for name, leaf in _flat(params).items()}
    save_file(flat, folder / ARRAYS)
    settings: dict[str, Any] = {"config": to_json(config), "trained": dict(trained)}
    if isinstance(reader, WordVocabulary):
        settings["names"] = list(reader.names)
    else:
        save_tokenizer(reader, folder)
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
        config = from_json(PairConfig, settings["config"])
        names = settings.get("names")
        reader: Reader | None = (
            find_tokenizer(folder, config.text.vocab_size)
            if names is None
            else WordVocabulary(tuple(names))
        )
        arrays = load_file(folder / ARRAYS)
    except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise UserError(f"{folder} holds no model that can be read: {error}") from None
    if reader is None:
        raise UserError(f"{folder} has no tokenizer, with which its model was saved")
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: ImageText(config, rngs=nnx.Rngs(0))))
    expected = _flat(abstract)
    if isinstance(reader, WordVocabulary) and len(reader) != config.text.vocab_size:
        raise UserError(
            f"{folder / SETTINGS} names things of {len(reader)} words, and its text tower reads "
            f"{config.text.vocab_size}: bring the file back that was written with the model"
        )
    if {n: a.shape for n, a in arrays.items()} != {n: a.shape for n, a in expected.items()}:
        raise UserError(f"{folder / ARRAYS} is of another model than {SETTINGS} beside it says")
    leaves = [jax.numpy.asarray(arrays[name]) for name in expected]
    params = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
    return KeptModel(nnx.merge(graphdef, params), reader)


def _flat(params: Any) -> dict[str, Any]:
    """Arrays by their places in the model."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
