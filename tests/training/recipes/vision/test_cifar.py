# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 in its authors' layout, on small batches; a file of another format is refused."""

import pickle

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.vision.cifar import FILES
from training.recipes.vision.images import load_images

RANDOM = np.random.default_rng(0)


def batch(count: int = 3) -> dict:
    data = RANDOM.integers(0, 256, (count, 3072), np.uint8)
    return {b"data": data, b"labels": RANDOM.integers(0, 10, count).tolist(), b"batch_label": b"x"}


def test_the_batches_are_read_in_order(tmp_path):
    batches = {name: batch() for name in (*FILES["train"], *FILES["test"])}
    for name, content in batches.items():
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol=2))
    images = load_images(f"cifar10:{tmp_path}")
    assert images.read([0]).shape == (1, 32, 32, 3)
    red = batches["data_batch_2"][b"data"][1][:1024].reshape(32, 32)
    np.testing.assert_array_equal(images.read([4])[0, :, :, 0], red)
    assert images.labels_N[3:6].tolist() == batches["data_batch_2"][b"labels"]
    assert len(images.labels_N) == 15
    assert len(load_images(f"cifar10:{tmp_path}", "test").labels_N) == 3


class Harm:
    def __reduce__(self):
        return print, ("harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a pickle", "is no batch of CIFAR-10"),
        (pickle.dumps({b"data": Harm(), b"labels": []}), r"it calls builtins\.print"),
        (pickle.dumps({b"data": np.zeros((2, 3000), np.uint8), b"labels": [1, 2]}), "reshape"),
        (pickle.dumps({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}), "float64 pixels"),
        (pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "1 labels"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [77]}), "up to 77"),
        (pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [1]}), "labels"),
    ],
)
def test_another_format_is_refused(tmp_path, content, message, capsys):
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_images(f"cifar10:{tmp_path}", "test")
    assert capsys.readouterr().out == ""
