# SPDX-License-Identifier: Apache-2.0
"""Gradient statistics: the mean square of each parameter's gradient over segments of training text.

They are of the checkpoint's parameters and of a segment length, and scale the updates of the
optimizer `rms` (Krause et al. 2018). A file of them is bound to its model.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from checkpoints.files import is_file, naming, new_file
from checkpoints.session_file import weights_fingerprint
from eval.documents import Documents
from eval.dynamic.config import DynamicConfig
from eval.dynamic.feed import Feed
from eval.dynamic.parameters import Form, split
from eval.dynamic.step import segment_loss
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.params import Flat
from recurrentgemma.state import init_state

FORMAT, VERSION = "griffin-lm gradient statistics", 1
STREAMS = 8  # documents at once
SEGMENTS = 1024  # of training text, where no number is given


@dataclass(frozen=True)
class Statistics:
    """mean_square: by canonical name, over so many segments."""

    mean_square: Flat
    segments: int
    segment_length: int
    parameters: str
    """Which were adapted, and how: those of LoRA depend on its first values."""
    weights: str
    """The fingerprint of the model."""

    @property
    def fingerprint(self) -> str:
        """Tells them from others."""
        digest = hashlib.sha256(f"{self.segments} {self.segment_length}".encode())
        for name in sorted(self.mean_square):
            digest.update(name.encode() + np.asarray(self.mean_square[name]).tobytes())
        return digest.hexdigest()[:16]

    def check(self, lm: LanguageModel, choices: DynamicConfig) -> None:
        """Raises UserError: they are of another model, segment length or choice of parameters."""
        if self.weights != weights_fingerprint(lm):
            raise UserError("the gradient statistics are of another model: make them anew")
        if self.segment_length != choices.segment_length:
            raise UserError(
                f"the gradient statistics are of segments of {self.segment_length} tokens, and "
                f"segment_length={choices.segment_length}: make them anew"
            )
        if "lora" in (choices.parameters, self.parameters.split()[0]) and (
            self.parameters != described(choices)
        ):
            raise UserError(
                f"the gradient statistics are of parameters {self.parameters}, and these are "
                f"{described(choices)}: make them anew"
            )


def described(choices: DynamicConfig) -> str:
    """Which parameters the choices adapt, in one line."""
    if choices.parameters != "lora":
        return choices.parameters
    lora = choices.lora
    return f"lora rank={lora.rank} alpha={lora.alpha} layers={lora.layers} seed={choices.seed}"


def gradient_statistics(
    lm: LanguageModel,
    documents: Documents,
    choices: DynamicConfig,
    *,
    segments: int = SEGMENTS,
    progress: Any = None,
) -> Statistics:
    """Over the first so many segments of the documents, their states carried.

    progress: called with the number of segments so far.
    Raises UserError: there is no segment.
    """
    parts = split(lm, choices)
    feed = Feed(lm, documents, choices, [None] * min(STREAMS, max(1, len(documents))))
    state = init_state(parts.form.config, feed.count) if choices.state == "carry" else None
    sums = jax.tree.map(jnp.zeros_like, parts.pretrained)
    add, count = jax.jit(partial(_add, parts.form, choices), donate_argnums=(0, 1)), 0
    while not feed.finished and count < segments:
        fed = feed.next()
        counts_S = np.zeros(feed.count, np.float32)
        for turn in fed.turns[: segments - count]:
            counts_S[turn.stream] = 1
        sums, state = add(sums, state, parts.pretrained, parts.frozen, fed.segment, counts_S)
        count += int(counts_S.sum())
        if progress is not None:
            progress(count)
    if not count:
        raise UserError("there is no text to make gradient statistics of: give some")
    return Statistics(
        {name: squares / count for name, squares in sums.items()},
        count,
        choices.segment_length,
        described(choices),
        weights_fingerprint(lm),
    )


def _add(form: Form, choices: DynamicConfig, sums, state, adapted, frozen, segment, counts_S):
    def one(state, segment, counts):
        run = partial(segment_loss, form, choices)
        first = jax.tree.map(lambda x: x[None], state)
        grads, (_, after, _) = jax.grad(run, has_aux=True)(adapted, frozen, segment, first)
        squares = jax.tree.map(lambda g: counts * jnp.square(g), grads)
        return squares, jax.tree.map(lambda x: x[0], after)

    squares, state = jax.vmap(one)(state, segment, counts_S)
    return jax.tree.map(lambda before, s: before + jnp.sum(s, 0), sums, squares), state


def write(path: Path, statistics: Statistics) -> None:
    """Write them to one safetensors file, whole or not at all."""
    header = {
        "segments": statistics.segments,
        "segment_length": statistics.segment_length,
        "parameters": statistics.parameters,
        "weights": statistics.weights,
    }
    metadata = {"format": FORMAT, "version": str(VERSION), "statistics": json.dumps(header)}
    arrays = {name: np.asarray(array) for name, array in statistics.mean_square.items()}
    with naming(path), new_file(path) as unfinished:
        unfinished.write_bytes(save(arrays, metadata))


def read(path: Path) -> Statistics:
    """Raises UserError: there is no such file, or it is something else."""
    if not is_file(path):
        raise UserError(f"there is no file of gradient statistics {path}")
    try:
        with safe_open(path, framework="np") as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is no file of gradient statistics ({error})") from None
    if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
        raise UserError(f"{path} is no file of gradient statistics of version {VERSION}")
    header = json.loads(metadata["statistics"])
    return Statistics({name: jnp.asarray(array) for name, array in arrays.items()}, **header)
