# SPDX-License-Identifier: Apache-2.0
"""Texts in memory are a source like any other."""

import pickle

from training.data.sources import TextSource, fingerprint
from training.data.sources.texts import Texts


def test_texts_by_number_and_by_name():
    texts: TextSource = Texts("plays", {"hamlet": "Ay.", "macbeth": "été"})
    assert (len(texts), texts.size, texts.blocks, texts.spec) == (2, 8, None, "plays")
    assert [(texts.name(n), texts[n]) for n in range(2)] == [("hamlet", "Ay."), ("macbeth", "été")]
    assert fingerprint(pickle.loads(pickle.dumps(texts))) == fingerprint(texts)
    assert fingerprint(texts) != fingerprint(Texts("plays", {"hamlet": "Ay.", "macbeth": "ete"}))
