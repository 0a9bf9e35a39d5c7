# SPDX-License-Identifier: Apache-2.0
"""Images of files as square arrays: decoded, cut and scaled."""

import io
from typing import Any

import numpy as np

from recurrentgemma.errors import MissingExtra, UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
SHARES = (0.5, 1.0)  # of an image's area that a cut for training leaves
RATIOS = (3 / 4, 4 / 3)  # of its sides


def pillow() -> Any:
    """The module. Raises MissingExtra."""
    try:
        from PIL import Image
    except ImportError:
        raise MissingExtra(
            "images in files are decoded by Pillow: run `pip install 'griffin-lm[vision]'`"
        ) from None
    return Image


def square(
    image: bytes | np.ndarray,
    side: int,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """uint8 [side, side, 3]. What is transparent becomes white.

    rng: the image is cut to a random part of at least half its area and of nearly its shape, as is
    usual for training; None: to the largest square in its middle. Never mirrored: captions say
    left and right.

    Raises UserError: it cannot be decoded, or is no [H, W, 3].
    """
    module = pillow()
    picture = _opened(module, image)
    width, height = picture.size
    box = _middle(width, height) if rng is None else _drawn(width, height, rng)
    scaled = picture.resize((side, side), module.Resampling.BILINEAR, box=box)
    return np.asarray(scaled, np.uint8)


def _opened(module: Any, image: bytes | np.ndarray) -> Any:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] not in (1, 3) or 0 in image.shape:
            raise UserError(f"an image of shape {image.shape}: expected [height, width, 3]")
        return module.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.uint8))
    try:
        with module.open(io.BytesIO(image)) as opened:
            if opened.mode in ("RGBA", "LA", "PA") or "transparency" in opened.info:
                opened = opened.convert("RGBA")
                white = module.new("RGBA", opened.size, "white")
                return module.alpha_composite(white, opened).convert("RGB")
            return opened.convert("RGB")
    except module.UnidentifiedImageError:
        raise UserError("no image that can be decoded: its format is not known") from None
    # Pillow's decoders raise these and more; SyntaxError is what its PNG reader raises.
    except (OSError, SyntaxError, ValueError, module.DecompressionBombError) as error:
        raise UserError(f"no image that can be decoded ({error})") from None


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _drawn(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    area = width * height * rng.uniform(*SHARES)
    ratio = np.exp(rng.uniform(*np.log(RATIOS)))
    across, down = min(width, np.sqrt(area * ratio)), min(height, np.sqrt(area / ratio))
    left, top = rng.uniform(0, width - across), rng.uniform(0, height - down)
    return left, top, left + across, top + down
