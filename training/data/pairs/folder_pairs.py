# SPDX-License-Identifier: Apache-2.0
"""`folder:DIRECTORY[?caption=text]`: images in files, and metadata.jsonl, whose lines name one each
as `file_name` and have its caption, as Hugging Face's imagefolder has them."""

from pathlib import Path

from recurrentgemma.errors import UserError
from training.data.pairs.pair import Pair
from training.data.sources.json_lines import JsonLines
from training.data.sources.spec import SourceSpec

METADATA = "metadata.jsonl"
FILE = "file_name"


class FolderPairs:
    """See `PairSource`.

    Raises UserError: there is no such folder, or no metadata.jsonl with lines in it.
    """

    def __init__(self, spec: SourceSpec) -> None:
        self.spec = spec.text
        self._caption = spec.options.get("caption", "text")
        self._folder = Path(spec.where).expanduser()
        lines = self._folder / METADATA
        if not lines.is_file():
            raise UserError(
                f"{spec.text!r}: there is no {lines}: expected a line for each image, such as "
                f'{{"{FILE}": "0001.png", "{self._caption}": "a lemon"}}'
            )
        self._lines = JsonLines(SourceSpec(spec.text, "jsonl", str(lines), {}))

    def __len__(self) -> int:
        return len(self._lines)

    def name(self, index: int) -> str:
        return self._lines.name(index)

    def __getitem__(self, index: int) -> Pair:
        record = self._lines.record(index)
        file = self._lines.text(record, FILE, index)
        caption = self._lines.text(record, self._caption, index, option="caption")
        try:
            return Pair((self._folder / file).read_bytes(), caption)
        except OSError as error:
            raise UserError(f"{self.name(index)}: {file} cannot be read: {error}") from None
