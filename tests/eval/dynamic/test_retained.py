# SPDX-License-Identifier: Apache-2.0
"""What is forgotten: a score with the parameters of now beside the checkpoint's."""

import numpy as np
import pytest

from eval.dynamic.learner import Learner
from eval.dynamic.retained import Retention
from eval.perplexity import score_documents
from recurrentgemma.errors import UserError
from recurrentgemma.params import from_flat_params
from tests.eval.dynamic.small import CONFIG, PLAIN, documents, ids_of, language_model, log_probs


def test_it_is_the_score_with_the_parameters_of_now():
    learner, retention = Learner(language_model(), PLAIN), Retention(documents(30, 9), most=34)
    untouched = retention.measure(learner, 0)
    assert untouched.forgotten == pytest.approx(0, abs=1e-6)
    assert untouched.before.tokens == 29 + 3
    log_probs(learner, np.tile(ids_of(8, 5), 8))
    measured = retention.measure(learner, 0)
    texts = [documents(30).read(0).document, documents(30, 9).read(1).document.cut(0, 4)]
    model = from_flat_params(CONFIG, learner.flat(0))
    after = score_documents(model, texts, 29 + 4)
    assert measured.before == untouched.before
    assert measured.after.nats == pytest.approx(after.nats)
    assert measured.forgotten == after.bits_per_byte - untouched.before.bits_per_byte
    assert abs(measured.forgotten) > 1e-3


def test_nothing_to_retain_is_refused():
    with pytest.raises(UserError, match="no text to score"):
        Retention(documents(1)).measure(Learner(language_model(), PLAIN), 0)
