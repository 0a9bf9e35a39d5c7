# SPDX-License-Identifier: Apache-2.0
"""Documents to be scored on, of every kind of source, with the bytes that they spell."""

import json
from pathlib import Path

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.tokenizer import train_sentencepiece
from training.data.held_out import HeldOutDocuments, held_out_of, open_held_out
from training.data.shard_writer import tokenise
from training.data.sources import open_data_source

TEXTS = ["But soft!", "What light through yonder window breaks?", "Über"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("held_out")
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text, "utf-8")
    lines = [json.dumps({"prompt": "Who?", "response": text}) + "\n" for text in TEXTS]
    (folder / "chats.jsonl").write_text("".join(lines))
    tokenise([f"text:{folder}/*.txt"], "bytes", folder / "tokens", shards=1, workers=1)
    return folder


def opened(spec: str) -> HeldOutDocuments:
    return open_held_out(spec, ByteTokenizer(), vocab_size=261)


def test_text_and_token_shards_are_the_same_documents(folder: Path):
    text, tokens = opened(f"text:{folder}/*.txt"), opened(f"arrayrecord:{folder}/tokens")
    for documents in (text, tokens):
        assert len(documents) == 3
        sizes = documents.sizes
        assert sizes is not None
        assert sizes.tolist() == [len(t.encode()) for t in TEXTS]
        for number, expected in enumerate(TEXTS):
            held_out = documents.read(number)
            assert held_out.document.ids.tolist() == ByteTokenizer().encode(expected)
            assert held_out.bytes == len(expected.encode())
    assert text.fingerprint != tokens.fingerprint
    assert text.spec == f"text:{folder}/*.txt"


def test_of_conversations_only_the_answers_are_scored(folder: Path):
    documents = opened(f"chat:{folder}/chats.jsonl?template=none")
    held_out = documents.read(0)
    learned = held_out.document.learned
    assert learned is not None
    assert bytes(held_out.document.ids[learned].tolist()).decode() == TEXTS[0]
    assert held_out.bytes == len(TEXTS[0])
    assert documents.sizes is None
    assert documents.fingerprint != opened(f"chat:{folder}/chats.jsonl").fingerprint


def test_a_limit_leaves_the_first_ids_and_their_bytes(folder: Path):
    source = open_data_source(f"text:{folder}/*.txt")
    for held_out, text in zip(held_out_of(source, ByteTokenizer(), 5), TEXTS, strict=True):
        np.testing.assert_array_equal(held_out.document.ids, ByteTokenizer().encode(text)[:5])
        kept = ByteTokenizer().decode(held_out.document.ids.tolist())
        assert held_out.bytes == len(kept.encode())


def test_other_tokenizers_are_refused(folder: Path):
    pieces = train_sentencepiece([f"{n} green bottles" for n in range(99)], 300)
    with pytest.raises(UserError, match="tokenised by another tokenizer"):
        open_held_out(f"arrayrecord:{folder}/tokens", pieces, vocab_size=512)
    with pytest.raises(UserError, match="261 ids and the model's vocabulary only 260"):
        open_held_out(f"text:{folder}/*.txt", ByteTokenizer(), vocab_size=260)
