# SPDX-License-Identifier: Apache-2.0
"""griffin info: exact counts, of presets and of checkpoints, with nothing read."""

import json

import pytest

import griffin_lm
from checkpoints import info_cli, store
from recurrentgemma.params import flat_params
from recurrentgemma.presets import PRESETS
from tests.recurrentgemma.models import GRIFFIN, make


def info(capsys, *argv: str) -> dict:
    assert griffin_lm.main(["info", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_presets(capsys):
    assert info(capsys, "recurrentgemma_2b")["parameters"] == 2_682_862_080
    facts = info(capsys, "recurrentgemma_9b")
    assert facts["parameters"] == 8_579_977_216
    assert facts["state_bytes_by_dtype"]["bfloat16"] == 26_230_832 - 12 * 4 + 2 * 4
    assert sum(facts["parameters_by_part"].values()) == facts["parameters"]


def test_sequence_length_counts_the_keys_that_are_seen(capsys):
    short = info(capsys, "mqa_1b", "--sequence-length", "2048")["flops_per_token"]["attention"]
    long = info(capsys, "mqa_1b", "--sequence-length", "4096")["flops_per_token"]["attention"]
    assert long == pytest.approx(2 * short, rel=1e-3)


def test_the_table_names_what_it_counts(capsys):
    assert griffin_lm.main(["info", "tiny"]) == 0
    text = capsys.readouterr().out
    for word in ("parameters", "embedding", "bytes of state per sequence, bfloat16", "training"):
        assert word in text


def test_whether_transformers_can_run_it(capsys):
    assert info(capsys, "recurrentgemma_2b")["not_for_transformers"] == []
    assert griffin_lm.main(["info", "tiny"]) == 0
    assert "runs in transformers: yes" in capsys.readouterr().out
    griffin, mqa = (info(capsys, name)["not_for_transformers"] for name in ("hawk_1b", "mqa_1b"))
    assert griffin == [
        "it always scales embeddings (scale_embeddings=False)",
        "it always caps logits (logits_soft_cap=None)",
    ]
    assert mqa == ["it has no global attention (pattern)", *griffin]
    assert griffin_lm.main(["info", "mqa_1b"]) == 0
    assert "runs in transformers: no\n    it has no global att" in capsys.readouterr().out


def test_alone_it_lists_the_presets(capsys):
    assert griffin_lm.main(["info"]) == 0
    text = capsys.readouterr().out
    for name in PRESETS:
        assert f" {name} " in text
    assert "2,682,862,080" in text
    assert "griffin info PATH" in text
    assert info(capsys)["presets"]["tiny"] == info(capsys, "tiny")
    assert griffin_lm.main(["info", "--config", "tiny"]) == 2
    assert "--config has no effect without a checkpoint" in capsys.readouterr().err


def test_neither_a_preset_nor_a_path(capsys):
    assert griffin_lm.main(["info", "griffin_8b"]) == 2
    assert "'griffin_8b' is not a path either; unknown preset" in capsys.readouterr().err
    assert griffin_lm.main(["info", "tiny", "--sequence-length", "0"]) == 2
    assert "sequence_length=0: expected at least 1 token" in capsys.readouterr().err


def test_a_checkpoint(tmp_path, capsys):
    store.write(tmp_path / "model", flat_params(make("griffin")), GRIFFIN)
    facts = info(capsys, str(tmp_path / "model"))
    assert facts == info_cli.describe(GRIFFIN) | {"config": facts["config"]}
