# SPDX-License-Identifier: Apache-2.0
"""Documents of every kind, and mixtures of them."""

from pathlib import Path

import numpy as np
import pytest

from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.training.data.small_documents import (
    documents_of,
)
from training.data.document import Document
from training.data.documents import InMemory, Mixture, Tokenized
from training.data.shard_writer import tokenise
from training.data.sources import open_text_source
from training.data.token_shards import TokenShards


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, float("nan")), (1.0, -1.0)])
def test_weights_that_do_not_fit(weights):
    part = InMemory(documents_of([3]))
    with pytest.raises(ValueError, match=r"1 weights for 2 sources|weight .*above 0"):
        Mixture((part, part), weights)


def test_documents_without_text_have_no_bytes_a_token(tmp_path: Path):
    """BOS and EOS are pairs to learn from, and no text to divide by."""
    (tmp_path / "a.jsonl").write_text('{"text": ""}\n' * 3)
    empty = Tokenized(open_text_source(f"jsonl:{tmp_path}/a.jsonl"), ByteTokenizer())
    assert empty.read(0).ids.tolist() == [258, 257]
    assert empty.bytes_per_token() is None
    assert InMemory([np.array([258, 257])] * 3, text_bytes=0).bytes_per_token() is None
    text = InMemory([np.array([258, 65, 257])], text_bytes=1)
    assert text.bytes_per_token() == 0.5
    assert Mixture((empty, text), (1.0, 1.0)).bytes_per_token() is None
    assert Mixture((text, text), (1.0, 3.0)).bytes_per_token() == 0.5
    tokenise([f"jsonl:{tmp_path}/a.jsonl"], "bytes", tmp_path / "tokens", workers=1)
    assert TokenShards(tmp_path / "tokens").bytes_per_token() is None


def test_a_loss_mask_is_part_of_the_fingerprint():
    ids = np.arange(3)
    masks = [None, np.array([True, True, True]), np.array([True, False, True])]
    assert len({InMemory([Document(ids, mask)]).fingerprint for mask in masks}) == 3
    assert InMemory([ids]).fingerprint == InMemory([Document(ids.astype(np.int32))]).fingerprint
