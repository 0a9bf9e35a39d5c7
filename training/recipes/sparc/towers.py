# SPDX-License-Identifier: Apache-2.0
"""Images and captions to one space (2401.09865, section 2): a ViT, a text tower, their linear
adapters g_v and g_t, and the layer h_v of the global image path.

    v_p = g_v(f_v(x)_p)    v = g_v(h_v(mean_p f_v(x)_p))
    t_l = g_t(f_t(y)_l)    t = g_t(mean_l f_t(y)_l)           over the caption's real tokens

The paper's listing differs: v and t are means of v_p and t_l, without h_v, and padding counts
(follow="listing").

Legend: B rows, P patches, L tokens, F width of a tower's features, D of the shared space.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from recurrentgemma import parallel
from recurrentgemma.errors import UserError
from training.recipes.sparc.batch import PairBatch
from training.recipes.sparc.embeddings import Embeddings
from training.recipes.sparc.text import (
    DTYPE,
    GELU,
    GriffinText,
    TextConfig,
    TextFeatures,
    TransformerConfig,
)
from training.recipes.vision.layers import Dense
from training.recipes.vision.vit import ViTConfig

Follow = Literal["text", "listing"]
START_SCALE = 1 / 0.07  # 1 / tau at the start, CLIP's: SPARC's is not printed


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairConfig:
    """image_size: pixels of a side. width: D, 512 in the paper."""

    image: ViTConfig
    text: TextConfig
    image_size: int = 224
    width: int = 512
    follow: Follow = "text"

    def __post_init__(self) -> None:
        if self.follow not in ("text", "listing"):
            raise UserError(f"follow={self.follow!r}: expected 'text' or 'listing'")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, 3)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        side = self.image_size // self.image.patch
        return (side, side)

    @property
    def patches(self) -> int:
        """P."""
        return math.prod(self.grid)


class ImageText(nnx.Module):
    """Both towers. `log_scale` is log(1 / tau), learned."""

    def __init__(self, config: PairConfig, *, rngs: nnx.Rngs):
        """Raises UserError: a checkpoint cannot be read, or sizes do not divide."""
        self.config = config
        self.image = config.image.module(config.image_shape, config.width, rngs=rngs)
        features = config.image.width
        text_path = config.follow == "text"
        self.global_layer = Dense(features, features, GELU, rngs=rngs) if text_path else None
        self.text = config.text.module(rngs=rngs)
        self.text_adapter = nnx.Linear(config.text.features, config.width, rngs=rngs)
        self.log_scale = nnx.Param(jnp.float32(math.log(START_SCALE)))

    def scale(self) -> jax.Array:
        """1 / tau."""
        return jnp.exp(parallel.gather(self.log_scale[...], None, DTYPE))

    def __call__(self, batch: PairBatch) -> tuple[Embeddings, TextFeatures]:
        """The pairs in the shared space, and what the text tower has made of the captions.

        Raises UserError: images have other patches than there are positions; a caption is too long.
        """
        patches_BPD, image_BD = self.images(batch.images_BHWC)
        tokens_BLD, text_BD, features = self.texts(batch.ids_BL, batch.mask_BL)
        embeddings = Embeddings(patches_BPD, tokens_BLD, batch.words_BL, image_BD, text_BD)
        return embeddings, features

    def images(self, images_BHWC: jax.Array) -> tuple[jax.Array, jax.Array]:
        """v_p [B, P, D] and v [B, D]."""
        image = parallel.gathered(self.image, DTYPE)
        features_BPF = image.patches(images_BHWC)[0]
        patches_BPD = image.head(features_BPF)
        if self.global_layer is None:
            return patches_BPD, jnp.mean(patches_BPD, axis=1)
        global_layer = parallel.gathered(self.global_layer, DTYPE)
        return patches_BPD, image.head(global_layer(jnp.mean(features_BPF, axis=1)).a)

    def texts(
        self, ids_BL: jax.Array, mask_BL: jax.Array
    ) -> tuple[jax.Array, jax.Array, TextFeatures]:
        """t_l [B, L, D], t [B, D] and the tower's own features."""
        features = self.text(ids_BL, mask_BL)
        adapter = parallel.gathered(self.text_adapter, DTYPE)
        tokens_BLD = adapter(features.tokens_BLF)
        if self.config.follow == "listing":
            return tokens_BLD, jnp.mean(tokens_BLD, axis=1), features
        return tokens_BLD, adapter(features.pooled_BF), features

    def patch_map(self, images_BHWC: jax.Array) -> jax.Array:
        """[B, P, D]: each patch by the path that global training has seen, h_v and g_v, as the
        paper segments (section 4.5); to be compared with captions' t. Words' heat maps take another
        path: v_p beside t_l."""
        features_BPF = self.image.patches(images_BHWC)[0]
        if self.global_layer is not None:
            features_BPF = self.global_layer(features_BPF).a
        return self.image.head(features_BPF)

    def language_loss(self, features: TextFeatures, batch: PairBatch) -> jax.Array:
        """Nats per token of the Griffin's own head on the captions.

        Raises UserError: the text tower is no language model.
        """
        if not isinstance(self.text, GriffinText) or features.forward_BLD is None:
            raise UserError(
                "language_weight is above 0, and the text tower, a Transformer that reads both "
                "ways, is no language model: take a Griffin, or a weight of 0"
            )
        return self.text.language_loss(features.forward_BLD, batch.ids_BL, batch.mask_BL)


VISION = {
    "B/32": ViTConfig(patch=32, width=768, depth=12, heads=12),
    "B/16": ViTConfig(patch=16, width=768, depth=12, heads=12),
    "L/14": ViTConfig(patch=14, width=1024, depth=24, heads=16),
}


def paper(vision: str = "B/16") -> PairConfig:
    """The paper's towers for images of 224 x 224 (section 4.1, appendix D.1). Raises UserError: it
    has no such size."""
    if vision not in VISION:
        raise UserError(f"{vision!r}: the paper's image towers are {', '.join(VISION)}")
    return PairConfig(image=VISION[vision], text=TransformerConfig())


def small(vocab_size: int, *, image_size: int = 32, length: int = 24) -> PairConfig:
    """Towers for two cores: about 0.2 million parameters besides the words' embeddings."""
    return PairConfig(
        image=ViTConfig(patch=image_size // 8, width=64, depth=2, heads=4),
        text=TransformerConfig(vocab_size=vocab_size, length=length, width=64, depth=2, heads=4),
        image_size=image_size,
        width=64,
    )
