# SPDX-License-Identifier: Apache-2.0
"""Pictures with captions: sources that are read in any order, and the batches made of them.

| written as                              | a pair is                                             |
|-----------------------------------------|-------------------------------------------------------|
| `webdataset:GLOB?caption=txt`           | files of one key in tar shards: KEY.jpg and KEY.txt   |
| `parquet:GLOB?image=image&caption=text` | a row: the bytes of a file, or {bytes, path}; a text  |
| `folder:DIRECTORY?caption=text`         | a line of metadata.jsonl: `file_name`, and a caption  |
| `tfds:NAME?image=image&caption=caption` | an example of a prepared TensorFlow Dataset           |

    source = open_pairs("webdataset:shards/*.tar")
    pairs = PairLoader(source, encode, side=224, length=55, batch_size=256)   # loader.py

The libraries of a kind are imported when it is first used.
"""

from training.data.pairs.pair import KINDS, OPTIONS, PairSource
from training.data.sources.spec import parse_spec


def open_pairs(text: str) -> PairSource:
    """The source that a spec names.

    Raises UserError: the spec is malformed, names nothing, or what it names cannot be read.
    """
    spec = parse_spec(text, KINDS, OPTIONS)
    if spec.kind == "webdataset":
        from training.data.pairs.web_dataset import WebDataset as Kind
    elif spec.kind == "parquet":
        from training.data.pairs.parquet_pairs import ParquetPairs as Kind
    elif spec.kind == "folder":
        from training.data.pairs.folder_pairs import FolderPairs as Kind
    else:
        from training.data.pairs.tfds_pairs import TfdsPairs as Kind
    return Kind(spec)
