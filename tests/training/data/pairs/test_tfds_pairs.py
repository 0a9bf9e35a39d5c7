# SPDX-License-Identifier: Apache-2.0
"""A TensorFlow Dataset of images with several captions each."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from recurrentgemma.errors import UserError
from tests.training.data.pairs.small_pairs import CAPTIONS, colour, png
from training.data.pairs import open_pairs


class Things(tfds.core.GeneratorBasedBuilder):
    """As coco_captions."""

    __module__ = "things"  # of a module in a package TFDS wants the path
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(8, 12, 3), encoding_format="png"),
            "captions": tfds.features.Sequence({"text": tfds.features.Text()}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"val": self._generate_examples()}

    def _generate_examples(self):
        for number, caption in enumerate(CAPTIONS):
            texts = [{"text": caption}, {"text": "another"}]
            yield number, {"image": io.BytesIO(png(number)), "captions": texts}


def test_pairs_by_number(tmp_path: Path):
    tfds.disable_progress_bar()
    Things(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    written = f"tfds:things:val?caption=captions/text&data_dir={tmp_path}"
    pairs = pickle.loads(pickle.dumps(open_pairs(written)))
    assert len(pairs) == 4
    for index in range(4):
        image, caption = pairs[index]
        assert isinstance(image, np.ndarray)
        assert caption == f"a {colour(image)} thing"
    with pytest.raises(UserError, match=r"no feature 'caption'; they have .*\?caption=NAME"):
        open_pairs(f"tfds:things:val?data_dir={tmp_path}")
    with pytest.raises(UserError, match="captions/words is no text"):
        open_pairs(f"tfds:things:val?caption=captions/words&data_dir={tmp_path}")[0]
