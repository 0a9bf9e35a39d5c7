# SPDX-License-Identifier: Apache-2.0
"""The measurement of a small model: what it costs is small, what it saves is not."""

from pathlib import Path

from serving.bench.int8 import Int8BenchArguments, bits_per_byte, token_seconds
from serving.features.int8 import with_int8


def test_cost_and_speed(language_model):
    lm = language_model("hawk")
    models = {"float32": lm, "int8": with_int8(lm)}
    text = "To be, or not to be, that is the question."
    plain, int8 = (bits_per_byte(model, text) for model in models.values())
    assert 0 < abs(int8 - plain) < 0.02 * plain
    arguments = Int8BenchArguments(path="", text=Path(), slots=2, steps=2, calls=1)
    assert all(seconds > 0 for seconds in token_seconds(arguments, models).values())
