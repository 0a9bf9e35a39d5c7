# SPDX-License-Identifier: Apache-2.0
"""A book's questions can be answered from the book, and accuracy is that of greedy decoding."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from eval.tasks.continuations import Continuation, ContinuationScorer
from eval.tasks.phonebook import FIRST, LAST, MOST, check_entries, question, recall
from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.eval.tasks.models import byte_model

ENTRY = re.compile(r"(\w+ \w+): (\d{3}-\d{3}-\d{4})")


def test_the_names_are_different():
    assert len({*FIRST}) * len({*LAST}) == MOST == 4096


@pytest.mark.parametrize("entries", [3, 50])
def test_a_question_is_of_the_book_and_not_one_of_the_examples(entries: int):
    prompt, answer = question(entries, "a")
    book, asked = prompt.split("\n\n")
    numbers = dict(ENTRY.findall(book))
    assert len(numbers) == entries == len(book.splitlines())
    *examples, name = asked.splitlines()
    shown = dict(ENTRY.findall("\n".join(examples)))
    assert len(shown) == len(examples) == 2
    assert shown.items() <= numbers.items()
    assert name.removesuffix(":") not in shown
    assert answer == f" {numbers[name.removesuffix(':')]}"
    assert question(entries, "a") == (prompt, answer) != question(entries, "b")


def test_accuracy_counts_whole_numbers():
    lm = byte_model("griffin")
    tokenizer = ByteTokenizer()
    asked = [question(3, f"3 0 {i}") for i in range(3)]

    def score(pairs, progress):
        assert [tokenizer.decode(context) for context, _ in pairs] == [q.prompt for q in asked]
        assert [bytes(answer).decode() for _, answer in pairs] == [q.answer for q in asked]
        return [Continuation(np.array([-1, -2], np.float32), i > 0) for i in range(3)]

    scorer: Any = SimpleNamespace(score=score)
    one = recall(lm, scorer, 3, questions=3)
    assert (one.right, one.questions, one.accuracy, one.nats) == (2, 3, 2 / 3, 3.0)
    assert one.tokens == pytest.approx(sum(len(q.prompt) + 1 for q in asked) / 3)


def test_books_have_a_size():
    for entries in (2, 4097):
        with pytest.raises(UserError, match=f"entries={entries}: expected from 3 to 4096"):
            check_entries([entries])


def test_a_book_that_global_attention_cannot_hold():
    lm = byte_model("mqa")
    with pytest.raises(UserError, match=r"8 entries: .*holds context_length=128.*--entries"):
        recall(lm, ContinuationScorer(lm), 8, questions=1)
