# SPDX-License-Identifier: Apache-2.0
"""Images as ImageNet's are prepared: FOLDER/SPLIT/CLASS/NAME.JPEG, decoded when they are read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recurrentgemma.errors import MissingExtra, UserError

SUFFIXES = {".jpeg", ".jpg", ".png"}


class ImageFolder:
    """See images.Images. Each image is scaled so that its shorter side is `size` * 8 / 7 (256 for
    224), and the middle `size` x `size` pixels are taken, as is usual for ImageNet's validation.

    Raises UserError: there is no such folder, or it holds no classes or no images.
    """

    def __init__(self, folder: str, split: str, *, size: int):
        root = Path(folder).expanduser() / split
        if not root.is_dir():
            raise UserError(
                f"there is no folder {root}: expected FOLDER/{split}/CLASS/NAME.JPEG, as ImageNet "
                "is prepared"
            )
        self.names = sorted(path.name for path in root.iterdir() if path.is_dir())
        files = [
            (path, label)
            for label, name in enumerate(self.names)
            for path in sorted((root / name).iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
        if not files:
            raise UserError(
                f"{root} has no images in folders of classes: expected {root}/CLASS/NAME.JPEG"
            )
        self.paths = [path for path, _ in files]
        self.labels_N = np.array([label for _, label in files], np.int32)
        self.classes, self.size = len(self.names), size

    def read(self, index_B: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [B, size, size, 3]. Raises UserError: one cannot be decoded."""
        return np.stack([self._decoded(self.paths[int(index)]) for index in np.asarray(index_B)])

    def _decoded(self, path: Path) -> np.ndarray:
        try:
            from PIL import Image, UnidentifiedImageError
        except ImportError:
            raise MissingExtra(
                "images in files are decoded by Pillow: run `pip install 'griffin-lm[vision]'`"
            ) from None
        try:
            with Image.open(path) as image:
                rgb = image.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise UserError(f"{path} is no image that can be decoded ({error})") from None
        factor = self.size * 8 / 7 / min(rgb.size)
        width, height = (max(self.size, round(side * factor)) for side in rgb.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        scaled = rgb.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(scaled.crop((left, top, left + self.size, top + self.size)), np.uint8)
