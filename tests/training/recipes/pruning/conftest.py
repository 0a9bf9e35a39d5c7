# SPDX-License-Identifier: Apache-2.0
"""Small images in CIFAR-10's own format: ten classes of noisy patches."""

import pickle
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source: 500 images to train on and 100 to test with. The class is a bright quarter."""
    folder = tmp_path_factory.mktemp("cifar")
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        labels = rng.integers(0, 4, 100)
        pixels = rng.integers(0, 100, (100, 3, 32, 32))
        for image, label in zip(pixels, labels, strict=True):
            row, column = 16 * (label // 2), 16 * (label % 2)
            image[:, row : row + 16, column : column + 16] += 120
        batch = {b"data": pixels.reshape(100, -1).astype(np.uint8), b"labels": labels.tolist()}
        (Path(folder) / name).write_bytes(pickle.dumps(batch))
    return f"cifar10:{folder}"
