# SPDX-License-Identifier: Apache-2.0
"""Documents of several sources by one number, each read when it is asked for."""

import json
from pathlib import Path

import numpy as np
import pytest

from eval.documents import InMemory, SourceDocuments, read_ahead
from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from training.data.document import Document
from training.data.held_out import HeldOut


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("a", "short"), ("b", "the longest of them"), ("c", "of the middle")):
        (tmp_path / f"{name}.txt").write_text(text)
    lines = [json.dumps({"text": f"line {n}"}) + "\n" for n in range(3)]
    (tmp_path / "lines.jsonl").write_text("".join(lines))
    return tmp_path


def test_numbers_go_through_the_sources(folder: Path):
    specs = (f"text:{folder}/*.txt", f"jsonl:{folder}/lines.jsonl")
    documents = SourceDocuments(specs, ByteTokenizer(), vocab_size=261)
    assert len(documents) == 6
    assert [documents.source_of(number) for number in range(6)] == [0, 0, 0, 1, 1, 1]
    assert documents.read(1).document.ids.tolist() == ByteTokenizer().encode("the longest of them")
    assert documents.read(4).name == f"{folder}/lines.jsonl:2"
    assert documents.read(4).bytes == len("line 1")
    assert list(documents.order()) == list(range(6))  # lines have no sizes
    files = SourceDocuments(specs[:1], ByteTokenizer(), vocab_size=261)
    assert list(files.order()) == [1, 2, 0]
    assert files.fingerprint != documents.fingerprint
    (folder / "a.txt").write_text("other")
    again = SourceDocuments(specs, ByteTokenizer(), vocab_size=261)
    assert again.fingerprint != documents.fingerprint
    with pytest.raises(UserError, match="there is nothing to evaluate on: give --data"):
        SourceDocuments((), ByteTokenizer(), vocab_size=261)


def test_the_next_one_is_read_meanwhile_and_no_more(folder: Path):
    asked: list[int] = []

    class Recorded(InMemory):
        def read(self, number: int) -> HeldOut:
            asked.append(number)
            if number == 4:
                raise UserError("document 4 is not UTF-8")
            return super().read(number)

    documents = Recorded(
        HeldOut(str(n), Document(np.arange(n, dtype=np.int32)), n) for n in range(6)
    )
    assert documents.order() == [5, 4, 3, 2, 1, 0]
    pairs = read_ahead(documents, documents.order())
    number, held_out = next(pairs)
    assert (number, held_out.name) == (5, "5")
    assert asked in ([5], [5, 4])
    with pytest.raises(UserError, match="document 4"):
        next(pairs)
    assert [number for number, _ in read_ahead(documents, [1, 0])] == [1, 0]
    assert list(read_ahead(documents, [])) == []


def test_documents_in_memory_are_told_apart():
    ids = np.arange(4, dtype=np.int32)
    mask = np.array([True, False, True, True])
    kinds = [Document(ids), Document(ids[:3]), Document(ids, mask), Document(ids, ~mask)]
    assert len({InMemory([HeldOut("", kind, 1)]).fingerprint for kind in kinds}) == 4
