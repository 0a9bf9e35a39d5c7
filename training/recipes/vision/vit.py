# SPDX-License-Identifier: Apache-2.0
"""A vision transformer (Dosovitskiy et al., 2020): patches, learned positions, pre-norm blocks, the
mean over patches, a linear head. The style's norm, if there is one, stands before the MLP's
activation; the blocks' own layer norms are there in any case."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma.errors import UserError
from training.recipes.vision.layers import Dense, Hidden, Outputs, Style

GELU = Style(activation="gelu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """patch: pixels of a side. mlp_widths: of each block; four times the width where none is
    given. mixing: how many blocks, the last ones, let patches attend to each other; all where it is
    not given, and with 0 each patch is read alone."""

    kind: str = "vit"
    patch: int = 4
    width: int = 64
    depth: int = 4
    heads: int = 4
    mlp_widths: tuple[int, ...] | None = None
    style: Style = GELU
    mixing: int | None = None

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> "ViT":
        """Raises UserError: a side is no multiple of the patch, the width none of the heads, or
        more blocks shall mix than there are."""
        if image_shape[0] % self.patch or image_shape[1] % self.patch:
            raise UserError(
                f"patch={self.patch}: expected a divisor of the image's sides, {image_shape[:2]}"
            )
        if self.width % self.heads:
            raise UserError(f"width={self.width}: expected a multiple of heads={self.heads}")
        if self.mixing is not None and not 0 <= self.mixing <= len(self.widths):
            raise UserError(f"mixing={self.mixing}: expected 0 to {len(self.widths)}, the blocks")
        return ViT(self, image_shape, outputs, rngs=rngs)

    @property
    def widths(self) -> tuple[int, ...]:
        """Of each block's MLP."""
        return self.mlp_widths or (4 * self.width,) * self.depth


class Attention(nnx.Module):
    """Self-attention of all positions, without dropout."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.heads = heads

    def __call__(self, x_BSD: jax.Array, real_BS: jax.Array | None = None) -> jax.Array:
        parts = self.qkv(x_BSD).reshape(*x_BSD.shape[:2], 3, self.heads, -1)
        q, k, v = (parts[:, :, number] for number in range(3))
        seen = None if real_BS is None else real_BS[:, None, None]
        mixed = jax.nn.dot_product_attention(q, k, v, mask=seen, implementation="xla")
        return self.out(mixed.reshape(x_BSD.shape))


class Block(nnx.Module):
    """x + attention(norm(x)), where it attends, then x + mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        style: Style,
        *,
        attends: bool = True,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs) if attends else None
        self.attention = Attention(width, heads, rngs=rngs) if attends else None
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = Dense(width, mlp_width, style, rngs=rngs)
        self.mlp_out = nnx.Linear(mlp_width, width, rngs=rngs)

    def __call__(
        self, x_BSD: jax.Array, real_BS: jax.Array | None = None
    ) -> tuple[jax.Array, Hidden]:
        """real_BS: the positions that may be attended to; all by default."""
        if self.attention is not None and self.attention_norm is not None:
            x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD), real_BS)
        hidden = self.mlp(self.mlp_norm(x_BSD))
        return x_BSD + self.mlp_out(hidden.a), hidden


class ViT(nnx.Module):
    """Images to outputs, and to features of each patch."""

    def __init__(
        self,
        config: ViTConfig,
        image_shape: tuple[int, ...],
        outputs: int,
        *,
        rngs: nnx.Rngs,
    ):
        height, width, channels = image_shape
        patches = height * width // config.patch**2
        self.patch = config.patch
        self.embed = nnx.Linear(config.patch**2 * channels, config.width, rngs=rngs)
        draw = jax.random.normal(rngs.params(), (patches, config.width))
        self.positions_SD = nnx.Param(0.02 * draw)
        widths = config.widths
        mixing = len(widths) if config.mixing is None else config.mixing
        self.names = tuple(f"block_{number}" for number in range(len(widths)))
        for number, (name, mlp_width) in enumerate(zip(self.names, widths, strict=True)):
            block = Block(
                *(config.width, config.heads, mlp_width, config.style),
                attends=number >= len(widths) - mixing,
                rngs=rngs,
            )
            setattr(self, name, block)
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, outputs, rngs=rngs)

    def patches(self, x_BHWC: jax.Array) -> tuple[jax.Array, dict[str, Hidden]]:
        """Features of each patch, row by row, after the last norm; and the blocks' hidden layers.

        Raises UserError: an image has another number of patches than there are positions.
        """
        batch, height, width, channels = x_BHWC.shape
        side, rows, columns = self.patch, height // self.patch, width // self.patch
        positions_SD = self.positions_SD[...]
        if height % side or width % side or rows * columns != len(positions_SD):
            raise UserError(
                f"images of {height} x {width} have {height / side:g} x {width / side:g} patches "
                f"of {side} x {side}, and the network has positions for {len(positions_SD)}: "
                "resize the images"
            )
        x = x_BHWC.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
        x_BSD = self.embed(x.reshape(batch, rows * columns, -1)) + positions_SD[None]
        hidden = {}
        for name in self.names:
            x_BSD, hidden[name] = getattr(self, name)(x_BSD)
        return self.norm(x_BSD), hidden

    def __call__(self, x_BHWC: jax.Array) -> Outputs:
        x_BSD, hidden = self.patches(x_BHWC)
        features_BD = jnp.mean(x_BSD, axis=1)
        return Outputs(self.head(features_BD), features_BD, hidden)
