# SPDX-License-Identifier: Apache-2.0
"""Small embeddings, towers and batches that the tests of this folder share, so that one shape is
compiled once; and SPARC's local loss as loops over captions in float64."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from recurrentgemma.config import GriffinConfig
from recurrentgemma.sharding import parameter_name
from training.recipes.sparc.batch import PairBatch, pair_batch
from training.recipes.sparc.embeddings import Embeddings
from training.recipes.sparc.text import TextConfig, TransformerConfig
from training.recipes.sparc.towers import PairConfig
from training.recipes.vision.vit import ViTConfig

ROWS, TOKENS, PATCHES, WIDTH, VOCAB, SIDE = 8, 5, 4, 6, 16, 4
SCALE: Any = 7.0
COUNTS = np.array([5, 1, 3, 4, 2, 5, 3, 2])  # tokens of each caption
MASK_BL: Any = np.arange(TOKENS)[None] < COUNTS[:, None]
GRIFFIN = GriffinConfig(
    width=8,
    mlp_width=8,
    num_layers=1,
    lru_width=8,
    num_gate_blocks=1,
    num_heads=1,
    head_dim=8,
    vocab_size=VOCAB,
    pattern=("recurrent",),
    attention_window=8,
)
TRANSFORMER = TransformerConfig(vocab_size=VOCAB, length=TOKENS, width=8, depth=1, heads=2)
IMAGE = ViTConfig(patch=2, width=8, depth=1, heads=2)


def embeddings(seed: int = 0) -> Embeddings:
    """Random ones, float32."""
    rng = np.random.default_rng(seed)
    shapes = ((ROWS, PATCHES, WIDTH), (ROWS, TOKENS, WIDTH), (ROWS, WIDTH), (ROWS, WIDTH))
    arrays: Any = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    return Embeddings(arrays[0], arrays[1], MASK_BL, arrays[2], arrays[3])


def towers(text: TextConfig = TRANSFORMER, **changes: Any) -> PairConfig:
    """Of images of 4 x 4 in four patches."""
    return PairConfig(image=IMAGE, text=text, image_size=SIDE, width=WIDTH, **changes)


def batch(seed: int = 0) -> PairBatch:
    """Noise, and captions of random tokens."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(ROWS, SIDE, SIDE, 3))
    ids = rng.integers(1, VOCAB, (ROWS, TOKENS))
    return pair_batch(images, ids, MASK_BL, vocab_size=VOCAB, length=TOKENS)


def filled(make: Callable[[], Any], seed: int = 0) -> Any:
    """The module that `make` makes, without its initial draws, each of which would be a program:
    norms and the temperature as they begin, all else normal."""
    rng = np.random.default_rng(seed)

    def value(path: tuple[Any, ...], x: Any) -> jax.Array:
        name = parameter_name(path)
        if name.endswith("log_scale"):
            return jnp.asarray(np.float32(math.log(1 / 0.07)))
        if name.endswith("scale"):
            return jnp.asarray(np.ones(x.shape, np.float32))
        return jnp.asarray(rng.normal(scale=0.3, size=x.shape).astype(np.float32))

    graphdef, shapes = nnx.split(nnx.eval_shape(make), nnx.Param)
    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(value, shapes))


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Of the last axis."""
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def unit(x: Any) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def naive_weights(s_P: np.ndarray, kind: str) -> np.ndarray:
    """Of one token."""
    if kind == "softmax":
        return np.exp(log_softmax(s_P))
    h_P = (s_P - s_P.min()) / (s_P.max() - s_P.min())
    if kind == "sparse":
        h_P[h_P < 1 / len(h_P)] = 0
    return h_P / h_P.sum()


def naive_local_loss(pairs: Embeddings, scale: float, kind: str, averaging: str) -> float:
    """2401.09865, equations 2 to 6, one caption and one token after the other."""
    losses, counts = [], []
    for patches_PD, tokens_LD, words_L in zip(*map(np.asarray, pairs[:3]), strict=True):
        tokens = tokens_LD[words_L].astype(np.float64)
        patches = patches_PD.astype(np.float64)
        grouped = np.array([naive_weights(patches @ t, kind) @ patches for t in tokens])
        logits = scale * unit(grouped) @ unit(tokens).T
        both = np.diag(log_softmax(logits)) + np.diag(log_softmax(logits.T))
        losses.append(-both.mean() / 2)
        counts.append(len(tokens))
    weights = counts if averaging == "batch" else None
    return float(np.average(losses, weights=weights))
