# SPDX-License-Identifier: Apache-2.0
"""MNIST and Fashion-MNIST are read out of packages in the formats of the real ones."""

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.vision import packaged

RANDOM = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def put(cache, monkeypatch, name: str, raw: bytes) -> None:
    """A package of the test's own in the cache, in place of the real one."""
    file, _ = getattr(packaged, name)
    (cache / file).write_bytes(raw)
    monkeypatch.setattr(packaged, name, (file, hashlib.sha256(raw).hexdigest()))


def test_mnist_of_a_wheel(tmp_path, monkeypatch):
    rows = RANDOM.integers(0, 256, (4, 785))
    rows[:, -1] = [0, 3, 9, 9]
    text = "\n".join(",".join(map(str, row)) for row in rows)
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(packaged.MNIST_FILE, gzip.compress(text.encode()))
    put(tmp_path, monkeypatch, "MNIST", wheel.getvalue())
    images = packaged.mnist(tmp_path)
    np.testing.assert_array_equal(images.read([1])[0].reshape(-1), rows[1, :-1])
    assert images.labels_N.tolist() == [0, 3, 9, 9]
    assert images.pixels_NHWC.dtype == np.uint8


def test_fashion_mnist_of_a_debian_package(tmp_path, monkeypatch):
    arrays = {}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        for split, count in (("train", 6), ("t10k", 2)):
            pixels = RANDOM.integers(0, 256, (count, 28, 28), np.uint8)
            labels = RANDOM.integers(0, 10, count, np.uint8)
            arrays[split] = (pixels, labels)
            for kind, array in zip(packaged.IDX_KINDS, (pixels, labels), strict=True):
                raw = gzip.compress(idx(array))
                member = tarfile.TarInfo(f"{packaged.FASHION_FOLDER}{split}-{kind}.gz")
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
    deb = b"!<arch>\n"
    for name, raw in (("debian-binary", b"2.0"), ("data.tar.xz", data.getvalue())):
        deb += f"{name:16}{'0':12}{'0':6}{'0':6}{'100644':8}{len(raw):<10}`\n".encode() + raw
        deb += b"\n" * (len(raw) % 2)
    put(tmp_path, monkeypatch, "FASHION", deb)
    for split, name in (("train", "train"), ("test", "t10k")):
        images = packaged.fashion_mnist(split, tmp_path)
        np.testing.assert_array_equal(images.pixels_NHWC[..., 0], arrays[name][0])
        np.testing.assert_array_equal(images.labels_N, arrays[name][1])


@pytest.mark.parametrize(
    "raw", [b"", b"PNG", idx(np.zeros((2, 2), np.uint8))[:-1], b"\0\0\x0d\1\0\0\0\1x"]
)
def test_another_format_is_refused(raw):
    with pytest.raises(UserError, match="no file in the idx format"):
        packaged.read_idx(raw, "images")
