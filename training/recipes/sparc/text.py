# SPDX-License-Identifier: Apache-2.0
"""Text towers: a Transformer that reads both ways, as the paper may have it (it does not say), and
a Griffin, fresh or from a checkpoint.

A Griffin is causal: its features of a word know the words before it alone. With directions=2 a
second Griffin reads the caption from its end, and a word's features are those of both, side by
side. Captions are padded on the right, so the first one needs no mask.

Legend: B rows, L tokens, F width of the tower's features, D of a Griffin.
"""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from checkpoints.load import config_of, load_checkpoint
from recurrentgemma import parallel
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import Batch, batch_loss
from training.recipes.sparc.contrast import masked_mean
from training.recipes.vision.layers import Style
from training.recipes.vision.vit import Block

GELU = Style(activation="gelu")
Pooling = Literal["mean", "last"]
DTYPE = jnp.dtype("float32")


class TextFeatures(NamedTuple):
    """tokens_BLF: of each token; meaningless at padding. forward_BLD: what a Griffin's own output
    head reads, None of a Transformer."""

    tokens_BLF: jax.Array
    pooled_BF: jax.Array
    forward_BLD: jax.Array | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """By default the paper's: 12 layers of width 768, 12 heads, 55 tokens of 32,000."""

    vocab_size: int = 32_000
    length: int = 55
    width: int = 768
    depth: int = 12
    heads: int = 12
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        _check(self.length, self.pooling)
        if self.width % self.heads:
            raise UserError(f"width={self.width}: expected a multiple of heads={self.heads}")

    @property
    def features(self) -> int:
        """F."""
        return self.width

    def module(self, *, rngs: nnx.Rngs) -> "TransformerText":
        return TransformerText(self, rngs=rngs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GriffinTextConfig:
    """griffin: of each direction. checkpoint: where both directions begin, a path or a name of any
    format; fresh without one. length: of the longest caption.

        text = griffin_from("runs/mine", length=55)
    """

    griffin: GriffinConfig
    length: int = 55
    pooling: Pooling = "mean"
    directions: int = 1
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        _check(self.length, self.pooling)
        if self.directions not in (1, 2):
            raise UserError(f"directions={self.directions}: expected 1, forward, or 2, both ways")
        bound = self.griffin.context_length
        if "global_attention" in self.griffin.block_types and self.length > bound:
            raise UserError(
                f"length={self.length}: the Griffin's global attention holds {bound} tokens"
            )

    @property
    def vocab_size(self) -> int:
        return self.griffin.vocab_size

    @property
    def features(self) -> int:
        """F."""
        return self.directions * self.griffin.width

    def module(self, *, rngs: nnx.Rngs) -> "GriffinText":
        """Raises UserError: as load_checkpoint does."""
        return GriffinText(self, rngs=rngs)


TextConfig = TransformerConfig | GriffinTextConfig


def griffin_from(
    checkpoint: str, *, length: int = 55, pooling: Pooling = "mean", directions: int = 1
) -> GriffinTextConfig:
    """A tower that begins with a checkpoint's parameters, in float32.

    Raises:
      UserError: as load_checkpoint.
    """
    griffin = dataclasses.replace(config_of(checkpoint), dtype="float32", param_dtype="float32")
    return GriffinTextConfig(
        griffin=griffin,
        length=length,
        pooling=pooling,
        directions=directions,
        checkpoint=checkpoint,
    )


class TransformerText(nnx.Module):
    """Embeddings and learned positions, pre-norm blocks over all real tokens, a norm."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        draw = 0.02 * jax.random.normal(rngs.params(), (config.vocab_size, config.width))
        self.embedding_VF = nnx.Param(draw)
        draw = 0.02 * jax.random.normal(rngs.params(), (config.length, config.width))
        self.positions_LF = nnx.Param(draw)
        self.blocks = nnx.List(
            [
                Block(config.width, config.heads, 4 * config.width, GELU, rngs=rngs)
                for _ in range(config.depth)
            ]
        )
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)

    def __call__(self, ids_BL: jax.Array, mask_BL: jax.Array) -> TextFeatures:
        """mask_BL: real tokens, bool. Raises UserError: a caption is longer than it takes."""
        check_length(self.config, ids_BL.shape[1])
        return parallel.gathered(self, DTYPE)._read(ids_BL, mask_BL)

    def _read(self, ids_BL: jax.Array, mask_BL: jax.Array) -> TextFeatures:
        x_BLF = self.embedding_VF[...][ids_BL]
        x_BLF = x_BLF + self.positions_LF[...][None, : ids_BL.shape[1]]
        for block in self.blocks:
            x_BLF, _ = block(x_BLF, mask_BL)
        x_BLF = self.norm(x_BLF)
        return TextFeatures(x_BLF, _pooled(x_BLF, mask_BL, self.config.pooling))


class GriffinText(nnx.Module):
    """One Griffin, or one for each direction."""

    def __init__(self, config: GriffinTextConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.griffin = _griffin(config, rngs)
        self.backward = _griffin(config, rngs) if config.directions == 2 else None

    def __call__(self, ids_BL: jax.Array, mask_BL: jax.Array) -> TextFeatures:
        """mask_BL: real tokens, bool. Raises UserError: a caption is longer than the tower takes.

        pooling="last" takes each direction's last token: forward that at the caption's end,
        backward that at its beginning.
        """
        check_length(self.config, ids_BL.shape[1])
        pooling = self.config.pooling
        forward_BLD, _ = self.griffin.hidden(ids_BL)
        pooled_BF = _pooled(forward_BLD, mask_BL, pooling)
        if self.backward is None:
            return TextFeatures(forward_BLD, pooled_BF, forward_BLD)
        order_BL = reversed_order(mask_BL)
        turned_BLD, _ = self.backward.hidden(jnp.take_along_axis(ids_BL, order_BL, axis=1))
        pooled_BF = jnp.concatenate([pooled_BF, _pooled(turned_BLD, mask_BL, pooling)], axis=-1)
        back_BLD = jnp.take_along_axis(turned_BLD, order_BL[..., None], axis=1)
        tokens_BLF = jnp.concatenate([forward_BLD, back_BLD], axis=-1)
        return TextFeatures(tokens_BLF, pooled_BF, forward_BLD)

    def language_loss(
        self, forward_BLD: jax.Array, ids_BL: jax.Array, mask_BL: jax.Array
    ) -> jax.Array:
        """Nats per token that follows a token of its caption, over the whole batch."""
        targets_BL = jnp.pad(ids_BL[:, 1:], ((0, 0), (0, 1)))
        weights_BL = jnp.pad(mask_BL[:, 1:], ((0, 0), (0, 1))).astype(jnp.float32)
        positions_BL = jnp.broadcast_to(jnp.arange(ids_BL.shape[1])[None], ids_BL.shape)
        batch = Batch(ids_BL, targets_BL, weights_BL, positions_BL)
        return batch_loss(self.griffin, forward_BLD, batch)[0]


def reversed_order(mask_BL: jax.Array) -> jax.Array:
    """Indices that turn each caption round and leave its padding; turning twice changes nothing."""
    l_1L = jnp.arange(mask_BL.shape[1])[None]
    count_B1 = jnp.sum(mask_BL, axis=1, keepdims=True)
    return jnp.where(l_1L < count_B1, count_B1 - 1 - l_1L, l_1L)


def check_length(config: TextConfig, tokens: int) -> None:
    """Raises UserError: a caption of so many tokens is longer than the tower takes."""
    if tokens > config.length:
        raise UserError(
            f"a caption of {tokens} tokens: the text tower takes {config.length}; cut it, or build "
            f"the tower with length={tokens}"
        )


def _griffin(config: GriffinTextConfig, rngs: nnx.Rngs) -> Griffin:
    if config.checkpoint is None:
        return Griffin(config.griffin, rngs=rngs)
    griffin = load_checkpoint(config.checkpoint, config.griffin)[0]
    return griffin


def _pooled(x_BLF: jax.Array, mask_BL: jax.Array, pooling: Pooling) -> jax.Array:
    if pooling == "mean":
        return masked_mean(x_BLF, mask_BL)
    last_B = jnp.maximum(jnp.sum(mask_BL, axis=1) - 1, 0)
    return jnp.take_along_axis(x_BLF, last_B[:, None, None], axis=1)[:, 0]


def _check(length: int, pooling: str) -> None:
    if length < 1:
        raise UserError(f"length={length}: expected at least 1 token")
    if pooling not in ("mean", "last"):
        raise UserError(f"pooling={pooling!r}: expected 'mean' or 'last'")
