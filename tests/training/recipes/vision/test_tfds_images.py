# SPDX-License-Identifier: Apache-2.0
"""A TensorFlow Dataset of images is read by name, with the features that are asked for."""

import io
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from recurrentgemma.errors import UserError
from training.recipes.vision.images import load_images

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)


class Animals(tfds.core.GeneratorBasedBuilder):
    """Labelled images with a place, as iWildCam's are."""

    __module__ = "animals"  # of a module in a package TFDS wants the path
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(4, 4, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(num_classes=7),
            "location": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, pixels in enumerate(PIXELS):
            png = io.BytesIO()  # of an array TFDS makes one with TensorFlow
            Image.fromarray(pixels).save(png, format="PNG")
            png.seek(0)
            yield number, {"image": png, "label": number, "location": number % 2}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    Animals(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


def test_images_are_read_by_name(prepared: Path):
    images = load_images(f"tfds:animals?data_dir={prepared}")
    assert images.classes == 7
    assert sorted(images.labels_N.tolist()) == [*range(6)]
    index = int(np.flatnonzero(images.labels_N == 4)[0])
    np.testing.assert_array_equal(images.read([index])[0], PIXELS[4])
    places = load_images(f"tfds:animals?data_dir={prepared}&label=location")
    assert places.classes == 2
    np.testing.assert_array_equal(places.labels_N, images.labels_N % 2)


def test_a_feature_that_is_not_there_is_told(prepared: Path):
    with pytest.raises(UserError, match=r"no feature 'labels'; they have 'image', 'label'"):
        load_images(f"tfds:animals?data_dir={prepared}&label=labels")
