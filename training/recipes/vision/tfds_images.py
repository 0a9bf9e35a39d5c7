# SPDX-License-Identifier: Apache-2.0
"""Labelled images of a TensorFlow Dataset that has been prepared with random access, such as
`cifar10`, `imagenet2012`, or iWildCam under the name that it was prepared with."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from recurrentgemma.errors import UserError
from training.data.sources.spec import SourceSpec
from training.data.sources.tfds import dataset_builder, open_split


class TfdsImages:
    """See images.Images. classes: of the label, where the dataset says, else its largest and 1."""

    def __init__(self, examples: Any, image: str, label: str, classes: int | None, name: str):
        self._examples, self._image, self.name = examples, image, name
        self.labels_N = np.array(
            [int(examples[index][label]) for index in range(len(examples))], np.int32
        )
        self.classes = int(self.labels_N.max()) + 1 if classes is None else classes

    def read(self, index_B: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8. Raises UserError: images of one batch have several sizes."""
        images = [np.asarray(self._examples[int(index)][self._image]) for index in index_B]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise UserError(
                f"{self.name}: its images have several sizes, {sorted(shapes)[:3]}; prepare them "
                "in one size"
            )
        return np.stack(images)


def tfds_images(
    where: str,
    split: str,
    *,
    image: str = "image",
    label: str = "label",
    data_dir: str | None = None,
) -> TfdsImages:
    """A split. image, label: names of features; a stream by place takes its feature, such as
    location, for a label.

    Raises UserError: it is not prepared, or has no such features.
    """
    options = {} if data_dir is None else {"data_dir": data_dir}
    spec = SourceSpec(f"tfds:{where}", "tfds", where, options)
    builder = dataset_builder(spec, where)
    examples, _ = open_split(spec, builder, where, split)
    features = builder.info.features
    for name in (image, label):
        if name not in features:
            raise UserError(
                f"{spec.text!r}: its examples have no feature {name!r}; they have "
                f"{', '.join(map(repr, features))}: choose with ?image=NAME&label=NAME"
            )
    classes = getattr(features[label], "num_classes", None)
    return TfdsImages(examples, image, label, classes, spec.text)
