# SPDX-License-Identifier: Apache-2.0
"""Models of each kind that generate: two layers at most, because what counts here is what goes
around the model."""

import dataclasses

from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.text.tokenizer import Tokenizer
from tests.drawn import untrained
from tests.recurrentgemma.models import CONFIGS

KINDS = {
    "griffin": dataclasses.replace(
        CONFIGS["griffin"], pattern=("recurrent", "local_attention"), num_layers=2
    ),
    "hawk": dataclasses.replace(CONFIGS["hawk"], num_layers=1),
    "mqa": dataclasses.replace(CONFIGS["mqa"], num_layers=1),
}
CONFIG = dataclasses.replace(KINDS["griffin"], vocab_size=300)  # with room for a byte tokenizer


def lm_of(kind: str, tokenizer: Tokenizer | None = None, **changes) -> LanguageModel:
    config = dataclasses.replace(KINDS[kind], **changes)
    return LanguageModel(untrained(config), tokenizer)
