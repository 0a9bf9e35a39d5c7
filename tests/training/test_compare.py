# SPDX-License-Identifier: Apache-2.0
"""The three models that are compared: of one size, on the same tokens."""

import dataclasses

from recurrentgemma.counts import parameter_count
from training.compare import MODELS, WINDOW, config_of, plot


def test_the_models_are_of_one_size_and_differ_in_nothing_else():
    configs = [config_of(name, ("a.txt",)) for name in MODELS]
    sizes = [parameter_count(config.model) for config in configs]
    assert max(sizes) < 1.01 * min(sizes)
    assert round(sizes[0] / 1e6, 1) == 3.3
    alike = {
        dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, pattern=("recurrent",), mlp_width=1),
        )
        for config in configs
    }
    assert len(alike) == 1


def test_the_plot_tells_the_last_held_out_score(tmp_path):
    records = [{"bits_per_byte": 3.0 - n / 100, "tokens": 4096 * n} for n in range(1, 2 * WINDOW)]
    records[-1]["held_out_bits_per_byte"] = 2.345
    plot(dict.fromkeys(MODELS, records), tmp_path / "plot.svg")
    text = (tmp_path / "plot.svg").read_text()
    for name in MODELS:
        assert f"{name}, 2.345" in text
