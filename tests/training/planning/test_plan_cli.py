# SPDX-License-Identifier: Apache-2.0
"""`griffin plan`. What needs the TPU compiler is skipped where there is none."""

import dataclasses
import json

import pytest

from kernels.measure import tpu_compile
from recurrentgemma.presets import PRESETS
from training.planning import plan_cli
from training.pretraining import SETTINGS

needs_libtpu = pytest.mark.skipif(
    tpu_compile.library() is None, reason="libtpu, the TPU compiler, is not installed here"
)
KEYS = {"fits", "bytes_per_device", "flops", "collectives", "step_seconds", "mfu_bound", "mesh"}


@needs_libtpu
def test_the_command(capsys):
    argv = ["tiny", "--topology", "v5e:2x2", "--serve", "--slots", "4"]
    assert plan_cli.main([*argv, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) >= KEYS
    with pytest.raises(ValueError, match=r"topology 'v5e:3x7': the TPU compiler refuses it"):
        plan_cli.main(["tiny", "--topology", "v5e:3x7", "--batch", "8"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing", "--topology", "v5e:2x2", "--batch", "8"], "unknown preset 'nothing'"),
        (["tiny", "--topology", "h100:8", "--batch", "8"], "with a chip of v5e, v5p, v6e"),
        (["tiny", "--topology", "v5e:2x2"], "--batch is missing: say how many rows"),
        (
            ["griffin_1b", "--topology", "v5e:2x2", "--vocab-size", "-1"],
            "--vocab-size -1: expected",
        ),
        (["tiny", "--topology", "v5e:2x2", "--slots", "4"], "--slots 4 means nothing without --se"),
        (["tiny", "--topology", "v5e:2x2", "--serve", "--batch", "4"], "--batch 4 means nothing w"),
        (["tiny", "--topology", "v5e:0x2", "--batch", "8"], "expected CHIP:AxB or CHIP:AxBxC"),
        (
            ["tiny", "--topology", "v5e:32x32", "--batch", "8"],
            "v5e have 2 dimensions and at most 1",
        ),
        (
            ["tiny", "--topology", "v5p:4x4", "--batch", "8"],
            "v5p have 3 dimensions and at most 16x",
        ),
        (
            ["tiny", "--topology", "v5e:2x2", "--serve"],
            "--slots is missing: say how many sequences",
        ),
        (
            ["tiny", "--topology", "v5e:2x2", "--serve", "--slots", "4", "--search"],
            "nothing to search",
        ),
    ],
)
def test_bad_input(argv, message):
    with pytest.raises(ValueError, match=message):
        plan_cli.main(argv)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_planned_as_it_is_trained(name):
    """Batch and sequence are those of its settings; with another sequence the tokens stay."""
    arguments = plan_cli.PlanArguments(model=name, topology="v5e:4x4")
    chosen = plan_cli.with_settings(arguments)
    if name == "tiny":
        assert (chosen.batch, chosen.sequence) == (0, 8192)
        return
    settings = SETTINGS[name]
    assert (chosen.batch, chosen.sequence) == (settings.batch_size, settings.sequence_length)
    plan_cli.check(chosen)
    longer = plan_cli.with_settings(dataclasses.replace(arguments, sequence=16384))
    assert longer.batch * 16384 == settings.batch_size * settings.sequence_length
    few = plan_cli.with_settings(dataclasses.replace(arguments, batch=16))
    assert (few.batch, few.sequence) == (16, settings.sequence_length)
    slots = dataclasses.replace(arguments, serve=True, slots=8)
    plan_cli.check(plan_cli.with_settings(slots))


def test_the_command_plans_the_settings(monkeypatch, capsys):
    asked = []

    def plans(config, arguments, _):
        asked.append((config.vocab_size, config.dtype, arguments.batch, arguments.sequence))
        yield {"fits": True, "step_seconds": 1.0}

    monkeypatch.setattr(plan_cli, "plans", plans)
    argv = ["griffin_1b", "--topology", "v5e:4x4", "--json"]
    assert plan_cli.main(argv) == 0
    assert plan_cli.main([*argv, "--vocab-size", "32768", "--batch", "128"]) == 0
    assert asked == [(256_000, "bfloat16", 512, 2048), (32_768, "bfloat16", 128, 2048)]


def test_what_does_not_fit_is_advised(monkeypatch, capsys):
    def plans(config, arguments, _):
        yield {"fits": False, "step_seconds": None, "bytes_per_device": {"total": 1.0}}

    monkeypatch.setattr(plan_cli, "plans", plans)
    assert plan_cli.main(["griffin_1b", "--topology", "v5e:4x4", "--json"]) == 1
    advice = " ".join(capsys.readouterr().err.split())
    assert "It does not fit: try more chips, or half a batch, --batch 256, which `griffin" in advice
    odd = plan_cli.PlanArguments(model="tiny", topology="v5e:4x4", batch=3)
    assert plan_cli.advice(odd) == "It does not fit: try more chips"


def test_choosing():
    def tried(fits, seconds, size):
        return {"fits": fits, "step_seconds": seconds, "bytes_per_device": {"total": size}}

    slow, fast, large = tried(True, 2.0, 5), tried(True, 1.0, 9), tried(False, None, 99)
    assert plan_cli.choose([slow, large, fast]) is fast
    assert plan_cli.choose([large, tried(False, None, 100)]) is large
