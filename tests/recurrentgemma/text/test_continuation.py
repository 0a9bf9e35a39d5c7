# SPDX-License-Identifier: Apache-2.0
"""Text that goes on after a prompt: the ids of the whole text where these can be, and never a token
that is merged with the prompt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurrentgemma.text.continuation import encode_continuation
from tests.recurrentgemma.text.seams import KINDS, merges

PIECES = st.lists(st.sampled_from(["model\n", "Paris", "\n", " ", "é", "🎉", ".", "0", "<"]))


@pytest.mark.parametrize("kind", KINDS)
@given(before=PIECES.filter(bool).map("".join), text=PIECES.map("".join))
def test_prompt_and_continuation_are_the_whole_text(kind: str, before: str, text: str):
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(before) + encode_continuation(tokenizer, text, before)
    if not merges(tokenizer, before, text):
        assert ids == tokenizer.encode(before + text)
    loses_spaces = kind in ("sentencepiece unigram", "metaspace always", "llama")
    if not loses_spaces and not (kind == "metaspace first" and before.startswith(" ")):
        assert tokenizer.decode(ids) == (before + text)
    ids = encode_continuation(tokenizer, text, before)
    alone = encode_continuation(tokenizer, text, None)
    if kind in ("bytes", "sentencepiece with a prefix"):  # nothing that was before them matters
        assert ids == alone


def test_what_merges_with_one_anchor_stands_after_another():
    """`\\n` goes with a newline before it, and with nothing else."""
    tokenizer = KINDS["sentencepiece"]()
    newline = tokenizer.encode("\n", bos=False)
    assert merges(tokenizer, "model\n", "\n")
    assert encode_continuation(tokenizer, "\n", "model\n") == newline
    assert encode_continuation(tokenizer, "", "model\n") == []
