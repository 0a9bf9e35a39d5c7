# SPDX-License-Identifier: Apache-2.0
"""`tfds:NAME[/CONFIG][:VERSION][:SPLIT][?feature=text&data_dir=DIRECTORY]`: a TensorFlow Dataset.

It must have been prepared in a format with random access, which needs no TensorFlow to be read. A
dataset that lies in `data_dir` is found by its name even where its builder's code is not.
"""

import difflib
import re
from pathlib import Path
from typing import Any

from recurrentgemma.errors import UserError
from training.data.sources.spec import KINDS, SourceSpec, decode_utf8, parse_spec

WHERE = re.compile(
    r"(?P<name>\w+(?:/[\w.\-]+)?)(?::(?P<version>(?:\d+|\*)(?:\.(?:\d+|\*)){2}))?(?::(?P<split>.+))?"
)
_INFO = "dataset_info.json"  # in the folder of each prepared dataset
FORMAT = "array_record"


class TfdsSplit:
    """See `training.data.sources.TextSource`. A split may be a part, as in TFDS: `train[:90%]`."""

    blocks = None

    def __init__(self, spec: SourceSpec) -> None:
        match = WHERE.fullmatch(spec.where)
        if match is None:
            raise UserError(f"{spec.text!r}: expected {KINDS['tfds']}")
        self.spec = spec.text
        self._feature = spec.options.get("feature", "text")
        name = match["name"] + (f":{match['version']}" if match["version"] else "")
        builder = dataset_builder(spec, name)
        split = match["split"] or "train"
        self._examples, all_examples = open_split(spec, builder, match["name"], split)
        self._full_name = f"{builder.info.full_name}:{split}"
        self.size = round(int(builder.info.dataset_size) * len(self) / all_examples)
        features = builder.info.features
        if self._feature not in features:
            raise UserError(
                f"{spec.text!r}: its examples have no feature {self._feature!r}; they have "
                f"{', '.join(map(repr, features))}; choose one with ?feature=NAME"
            )

    def __reduce__(self) -> tuple:
        return TfdsSplit, (parse_spec(self.spec),)

    def __len__(self) -> int:
        return len(self._examples)

    def name(self, index: int) -> str:
        return f"{self._full_name}, example {index}"

    def __getitem__(self, index: int) -> str:
        try:
            value = self._examples[index][self._feature]
        except RuntimeError as error:
            raise UserError(f"{self.name(index)} cannot be read: {error}") from None
        if not isinstance(value, bytes):
            kind = type(value).__name__
            raise UserError(f"{self.name(index)}: {self._feature} is a {kind}, expected text")
        return decode_utf8(value, self.name(index))


def dataset_builder(spec: SourceSpec, name: str) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import constants
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    data_dir = spec.options.get("data_dir")
    if data_dir is not None:
        data_dir = str(Path(data_dir).expanduser())
        if not Path(data_dir).is_dir():
            raise UserError(f"{spec.text!r}: there is no folder {data_dir}")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except DatasetNotFoundError:
        folder = Path(data_dir or constants.DATA_DIR).expanduser()
        there = sorted({p.relative_to(folder).parts[0] for p in folder.rglob(_INFO)})
        dataset = re.split("[:/]", name)[0]
        if dataset in there:
            versions = sorted(
                str(p.parent.relative_to(folder)) for p in (folder / dataset).rglob(_INFO)
            )
            raise UserError(
                f"{spec.text!r}: {folder} has no {name}; of {dataset} it has {', '.join(versions)}"
            ) from None
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(dataset, [*there, *known], 3)
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
        raise UserError(
            f"{spec.text!r}: TFDS knows no dataset {dataset!r}; {hint}{folder} holds "
            f"{', '.join(there) or 'none'}; another folder is named with ?data_dir=DIRECTORY"
        ) from None
    except ValueError as error:
        raise UserError(f"{spec.text!r}: {str(error).splitlines()[0]}") from None


def open_split(spec: SourceSpec, builder: Any, name: str, split: str) -> tuple[Any, int]:
    """The examples of the split, and how many the whole dataset has."""
    options = [repr(name), f"file_format={FORMAT!r}"]
    if "data_dir" in spec.options:
        options.append(f"data_dir={spec.options['data_dir']!r}")
    call = f"tfds.builder({', '.join(options)}).download_and_prepare()"
    command = f'`python -c "import tensorflow_datasets as tfds; {call}"`'
    if not builder.is_prepared():
        raise UserError(
            f"{spec.text!r} is not prepared in {builder.data_path}; prepare it with {command}, or "
            f"name the folder where it is with ?data_dir=DIRECTORY"
        )
    splits = builder.info.splits
    try:
        if not splits[split].num_examples:
            raise UserError("it has no examples")
        examples = builder.as_data_source(split=split)
    except NotImplementedError:  # so TFDS says that a format has no random access: told as an error
        raise UserError(
            f"{spec.text!r} is prepared as {builder.info.file_format.value} in "
            f"{builder.data_path}, which has no random access; prepare it with {command}, in "
            f"another folder or after removing that one"
        ) from None
    except ValueError as error:
        near = difflib.get_close_matches(re.split(r"\W", split)[0], splits, 1)
        hint = f"did you mean {near[0]!r}? " if near and near[0] not in split else ""
        raise UserError(
            f"{spec.text!r}: {str(error).splitlines()[-1].rstrip('.')}; {hint}the splits are "
            f"{', '.join(splits)}"
        ) from None
    return examples, sum(split.num_examples for split in splits.values())
