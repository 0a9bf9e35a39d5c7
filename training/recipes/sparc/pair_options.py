# SPDX-License-Identifier: Apache-2.0
"""What `griffin recipe sparc --train FOLDER --pairs...` takes."""

import dataclasses
from typing import Literal

from recurrentgemma.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairOptions:
    source: str = ""
    """Pictures with captions: webdataset:GLOB, parquet:GLOB, folder:DIRECTORY or tfds:NAME."""
    text: str = ""
    """A Griffin as text tower: a checkpoint of any format; without one a Transformer is trained."""
    tokenizer: str = "bytes"
    """Of a Transformer: bytes, or a tokenizer's path; a Griffin has its own."""
    directions: int = 1
    """Of a Griffin: 1, forward, or 2, both ways."""
    pooling: Literal["mean", "last"] = "mean"
    """Of the caption's tokens."""
    language_weight: float = 0.0
    """Of a Griffin's own loss on the captions."""
    side: int = 96
    """Pixels that a picture is cut to."""
    patch: int = 8
    """Pixels of a patch's side."""
    width: int = 128
    """Of the image tower, the shared space and a Transformer."""
    depth: int = 4
    """Blocks of the image tower and of a Transformer."""
    length: int = 64
    """Tokens of a caption; longer ones are cut, and counted."""
    batch_size: int = 64
    """Pairs of a step."""
    learning_rate: float = 1e-3
    """At its highest."""
    workers: int = 0
    """Processes that decode; 0: threads."""

    def __post_init__(self) -> None:
        if self.text and self.tokenizer != "bytes":
            raise UserError(
                f"--pairs.tokenizer {self.tokenizer} beside --pairs.text {self.text}: a Griffin "
                "has its own; leave one out"
            )
        if not self.text and (self.directions != 1 or self.language_weight):
            raise UserError(
                "--pairs.directions and --pairs.language-weight are for a Griffin: name one with "
                "--pairs.text"
            )
        if self.side % self.patch:
            raise UserError(f"--pairs.side {self.side}: expected a multiple of patch {self.patch}")
