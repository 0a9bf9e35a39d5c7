# SPDX-License-Identifier: Apache-2.0
"""A model with global attention refuses what it cannot hold; others hold any length."""

import dataclasses

import pytest

from eval.dynamic.limits import check_document, check_lengths
from recurrentgemma.errors import UserError
from tests.eval.dynamic.small import MQA, PLAIN, language_model


def test_a_document_and_a_window():
    mqa, windows = language_model(MQA), dataclasses.replace(PLAIN, state="reset", overlap=8)
    check_document(mqa, PLAIN, 33, "a")
    check_document(mqa, windows, 10**9, "a")
    check_document(language_model(), PLAIN, 10**9, "a")
    with pytest.raises(UserError, match=r"a: 34 tokens are more than context_length=32.*reset"):
        check_document(mqa, PLAIN, 34, "a")
    check_lengths(mqa, windows)
    with pytest.raises(UserError, match="overlap=40 and segment_length=8 are more than"):
        check_lengths(mqa, dataclasses.replace(windows, overlap=40))
