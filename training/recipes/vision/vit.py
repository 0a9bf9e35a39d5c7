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
    given."""

    kind: str = "vit"
    patch: int = 4
    width: int = 64
    depth: int = 4
    heads: int = 4
    mlp_widths: tuple[int, ...] | None = None
    style: Style = GELU

    def module(self, image_shape: tuple[int, ...], outputs: int, *, rngs: nnx.Rngs) -> nnx.Module:
        """Raises UserError: a side is no multiple of the patch, or the width none of the heads."""
        if image_shape[0] % self.patch or image_shape[1] % self.patch:
            raise UserError(
                f"patch={self.patch}: expected a divisor of the image's sides, {image_shape[:2]}"
            )
        if self.width % self.heads:
            raise UserError(f"width={self.width}: expected a multiple of heads={self.heads}")
        return _ViT(self, image_shape, outputs, rngs=rngs)


class _Attention(nnx.Module):
    """Self-attention of all patches, without dropout."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.qkv = nnx.Linear(width, 3 * width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)
        self.heads = heads

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        parts = self.qkv(x_BSD).reshape(*x_BSD.shape[:2], 3, self.heads, -1)
        q, k, v = (parts[:, :, number] for number in range(3))
        mixed = jax.nn.dot_product_attention(q, k, v, implementation="xla")
        return self.out(mixed.reshape(x_BSD.shape))


class _Block(nnx.Module):
    def __init__(self, config: ViTConfig, mlp_width: int, *, rngs: nnx.Rngs):
        self.attention_norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.attention = _Attention(config.width, config.heads, rngs=rngs)
        self.mlp_norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.mlp = Dense(config.width, mlp_width, config.style, rngs=rngs)
        self.mlp_out = nnx.Linear(mlp_width, config.width, rngs=rngs)

    def __call__(self, x_BSD: jax.Array) -> tuple[jax.Array, Hidden]:
        x_BSD = x_BSD + self.attention(self.attention_norm(x_BSD))
        hidden = self.mlp(self.mlp_norm(x_BSD))
        return x_BSD + self.mlp_out(hidden.a), hidden


class _ViT(nnx.Module):
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
        widths = config.mlp_widths or (4 * config.width,) * config.depth
        self.names = tuple(f"block_{number}" for number in range(len(widths)))
        for name, mlp_width in zip(self.names, widths, strict=True):
            setattr(self, name, _Block(config, mlp_width, rngs=rngs))
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, outputs, rngs=rngs)

    def __call__(self, x_BHWC: jax.Array) -> Outputs:
        batch, height, width, channels = x_BHWC.shape
        side, rows, columns = self.patch, height // self.patch, width // self.patch
        x = x_BHWC.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
        x_BSD = self.embed(x.reshape(batch, rows * columns, -1)) + self.positions_SD[None]
        hidden = {}
        for name in self.names:
            x_BSD, hidden[name] = getattr(self, name)(x_BSD)
        features_BD = jnp.mean(self.norm(x_BSD), axis=1)
        return Outputs(self.head(features_BD), features_BD, hidden)
