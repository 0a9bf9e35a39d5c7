# SPDX-License-Identifier: Apache-2.0
"""A TensorFlow Dataset is read without TensorFlow, and what is wrong with it is said."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.training.data.sources.small_sources import (
    TEXTS,
)
from training.data.sources import open_text_source


class Songs(tfds.core.GeneratorBasedBuilder):
    """The documents as a TensorFlow Dataset, made by TFDS itself."""

    __module__ = (
        "songs"  # of a module in a package TFDS wants the path, through importlib_resources
    )
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=name) for name in ("loud", "soft"))

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"text": tfds.features.Text(), "number": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        parts = {"train": TEXTS[:20], "test": TEXTS[20:]}
        return {name: self._generate_examples(texts) for name, texts in parts.items()}

    def _generate_examples(self, texts):
        for number, text in enumerate(texts):
            shown = text.upper() if self.builder_config == self.BUILDER_CONFIGS[0] else text
            yield number, {"text": shown, "number": number}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data_dir of TFDS that holds `songs/soft` and `songs/loud`."""
    data_dir = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    for name in ("soft", "loud"):
        Songs(data_dir=data_dir, config=name, file_format="array_record").download_and_prepare()
    return data_dir


def test_a_tensorflow_dataset_is_read_by_name(prepared: Path) -> None:
    loud = open_text_source(f"tfds:songs/loud:train?data_dir={prepared}")
    assert sorted(loud[i] for i in range(len(loud))) == sorted(t.upper() for t in TEXTS[:20])
    half = open_text_source(f"tfds:songs/soft:1.0.0:train[:50%]?data_dir={prepared}&feature=text")
    whole = open_text_source(f"tfds:songs/soft?data_dir={prepared}")  # the split is train
    assert [half[i] for i in range(len(half))] == [whole[i] for i in range(10)]
    copy = pickle.loads(pickle.dumps(whole))
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(copy.__getitem__, range(20))) == set(TEXTS[:20])
    assert whole.name(3) == "songs/soft/1.0.0:train, example 3"


def test_a_tensorflow_dataset_that_cannot_be_read_says_why(prepared: Path, tmp_path: Path) -> None:
    def error(spec: str) -> str:
        with pytest.raises(ValueError, match=r".") as caught:
            open_text_source(spec)
        return str(caught.value)

    there = f"?data_dir={prepared}"
    assert "no dataset 'sonsg'; did you mean songs" in error(f"tfds:sonsg{there}")
    assert "ag_news_subset" in error("tfds:ag_news_subsett")
    assert "no folder /nowhere" in error("tfds:songs?data_dir=/nowhere")
    message = error(f"tfds:songs/soft:tran{there}")
    assert "did you mean 'train'? the splits are train, test" in message
    assert "no examples" in error(f"tfds:songs/soft:train[:0]{there}")
    assert "100, 100" in error(f"tfds:songs/soft:train[:200%]{there}")
    assert "no feature 'txt'; they have 'text', 'number'" in error(
        f"tfds:songs/soft:train{there}&feature=txt"
    )
    assert "songs/lowd" in error(f"tfds:songs/lowd{there}")
    call = "tfds.builder('songs/soft', file_format='array_record', data_dir='"
    assert call in error(f"tfds:songs/soft?data_dir={tmp_path}")
    # As TFDS prepares it without being told: files that cannot be read at random.
    shutil.copytree(prepared, tmp_path / "other")
    folder = tmp_path / "other" / "songs" / "soft" / "1.0.0"
    content = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(content | {"fileFormat": "tfrecord"}))
    message = error(f"tfds:songs/soft?data_dir={tmp_path / 'other'}")
    assert "is prepared as tfrecord" in message
    assert call in message
    number = open_text_source(f"tfds:songs/soft{there}&feature=number")
    with pytest.raises(ValueError, match="number is a int, expected text"):
        number[0]


def test_a_lost_shard_of_a_tensorflow_dataset_is_named(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "lost")
    [shard] = (tmp_path / "lost" / "songs" / "soft" / "1.0.0").glob("*train*")
    shard.unlink()
    source = open_text_source(f"tfds:songs/soft?data_dir={tmp_path / 'lost'}")
    with pytest.raises(ValueError, match=f"example 0 cannot be read.*{shard.name}"):
        source[0]
