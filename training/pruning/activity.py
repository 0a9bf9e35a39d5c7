# SPDX-License-Identifier: Apache-2.0
"""What the hidden units of a Griffin's MLPs do on documents: h = gelu(gate(x)) up(x).

    activity = unit_activity(lm.model, documents)
    activity.constant_LF            # units that have one value on every token, be it zero

Every token that scoring the documents reads is seen once, with the state before it carried along,
and only sums are kept, however much text there is.

Legend: L layers, F units; B rows, T tokens of a chunk.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from eval.documents import Documents, read_ahead
from eval.perplexity import BATCH_SIZE, CHUNK_LENGTH
from eval.rows import Rows
from eval.windows import check_document
from recurrentgemma.errors import UserError
from recurrentgemma.generation.walk import ChunkProgram
from recurrentgemma.griffin import Griffin
from recurrentgemma.params import flat_params, from_flat_params
from recurrentgemma.state import State


class UnitActivity(NamedTuple):
    """Of each unit over `tokens` tokens: mean and variance of h (float64), its least and its
    greatest value."""

    tokens: int
    mean_LF: np.ndarray
    variance_LF: np.ndarray
    least_LF: np.ndarray
    greatest_LF: np.ndarray

    @property
    def constant_LF(self) -> np.ndarray:
        """Which units have the same value on every token."""
        return self.least_LF == self.greatest_LF


def unit_activity(
    model: Griffin,
    documents: Documents,
    *,
    batch_size: int = BATCH_SIZE,
    chunk_length: int = CHUNK_LENGTH,
    progress: Callable[[int], None] = lambda read: None,
) -> UnitActivity:
    """The activity on all tokens of the documents but their last ones, which predict nothing.

    progress: is told how many tokens were read.
    Raises UserError: there is no token to read, or a document is longer than a model with global
    attention holds.
    """
    config = dataclasses.replace(model.config, scan_layers=False, remat="none")
    if model.config.scan_layers:
        model = from_flat_params(config, flat_params(model))
    graphdef, params = nnx.split(model, nnx.Param)
    program = ChunkProgram(_moments_of_chunk, graphdef, config)

    def begun() -> Any:
        for number, held_out in read_ahead(documents, documents.order()):
            check_document(config, held_out.name, len(held_out.document.ids) - 1)
            yield number, held_out

    rows = Rows(
        begun(),
        batch_size=batch_size,
        chunk_length=chunk_length,
        window=config.attention_window,
    )
    moments, behind, state, read = None, None, None, 0
    while not rows.finished:
        kept = rows.narrow()
        if state is None:
            state = program.fresh(rows.batch_size)
        elif kept is not None:
            state = jax.jit(_take_rows)(state, kept)
        chunk, _ = rows.next_chunk()
        ahead, state = program(params, chunk, state)
        moments = _joined(moments, behind)  # fetched while the device reads the next chunk
        behind, read = ahead, read + int(chunk.lengths_B.sum())
        progress(read)
    moments = _joined(moments, behind)
    if moments is None:
        raise UserError("there is no text to read: give at least one document that is not empty")
    return UnitActivity(
        read,
        moments.mean_LF,
        moments.squares_LF / read,
        moments.least_LF,
        moments.greatest_LF,
    )


class Moments(NamedTuple):
    """Of a chunk, or of all so far: squares are those of the distance to the mean, summed."""

    count: Any
    mean_LF: Any
    squares_LF: Any
    least_LF: Any
    greatest_LF: Any


def _moments_of_chunk(
    model: Griffin,
    tokens_BT: jax.Array,
    targets_BT: jax.Array,
    state: State,
    *,
    positions: jax.Array,
    lengths: jax.Array,
) -> tuple[Moments, State]:
    real_BT = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None] < lengths[:, None]
    real_BT = real_BT & (positions >= 0)
    seen: list[Moments] = []
    for block in model.blocks:
        mlp: Any = block.mlp_block  # the input of its last layer is h
        mlp.ffw_down = partial(_watched, mlp.ffw_down, seen, real_BT)
    _, state = model.hidden(tokens_BT, state, positions=positions, lengths=lengths)
    return jax.tree.map(lambda *layers: jnp.stack(layers), *seen), state


def _watched(down: Any, seen: list[Moments], real_BT: jax.Array, h_BTF: jax.Array) -> jax.Array:
    """down(h), and into `seen` what h was."""
    h32_BTF, real_BT1 = h_BTF.astype(jnp.float32), real_BT[..., None]
    count = real_BT.sum(dtype=jnp.float32)
    mean_F = jnp.where(real_BT1, h32_BTF, 0).sum((0, 1)) / jnp.maximum(count, 1)
    least_F = jnp.where(real_BT1, h32_BTF, jnp.inf).min((0, 1))
    greatest_F = jnp.where(real_BT1, h32_BTF, -jnp.inf).max((0, 1))
    mean_F = jnp.where(least_F == greatest_F, least_F, mean_F)  # exact where h is constant
    squares_F = jnp.where(real_BT1, jnp.square(h32_BTF - mean_F[None, None]), 0).sum((0, 1))
    seen.append(Moments(count, mean_F, squares_F, least_F, greatest_F))
    return down(h_BTF)


def _joined(so_far: Moments | None, chunk: Moments | None) -> Moments | None:
    """Both together (Chan, Golub and LeVeque 1979), in float64."""
    if chunk is None:
        return so_far
    host = Moments(*(np.asarray(jax.device_get(value), np.float64) for value in chunk))
    host = host._replace(count=host.count[0])  # the same in every layer
    if so_far is None or host.count == 0:
        return host if so_far is None else so_far
    count = so_far.count + host.count
    share = host.count / count
    shift_LF = host.mean_LF - so_far.mean_LF
    return Moments(
        count,
        so_far.mean_LF + share * shift_LF,
        so_far.squares_LF + host.squares_LF + so_far.count * share * np.square(shift_LF),
        np.minimum(so_far.least_LF, host.least_LF),
        np.maximum(so_far.greatest_LF, host.greatest_LF),
    )


def _take_rows(state: State, rows: jax.Array) -> State:
    return jax.tree.map(lambda x: x[rows], state)
