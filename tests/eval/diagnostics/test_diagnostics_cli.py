# SPDX-License-Identifier: Apache-2.0
"""`griffin eval diagnostics`: its numbers, its folder, stopped and started again, and what a user
got wrong."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

import griffin_lm
import recurrentgemma as rg
from checkpoints import store
from eval.diagnostics import layers
from eval.diagnostics.diagnostics_cli import main
from eval.diagnostics.measuring import Measuring
from eval.diagnostics.rows import first_rows
from eval.documents import SourceDocuments
from eval.results import read_result
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from tests.docs.world import PLAY, write_model
from tests.eval.dynamic.small import CONFIG

PROBE = ["--probe.steps", "6", "--probe.rows", "8", "--probe.length", "16"]
SMALL = ["--devices", "1", "--tokens", "256", "--sequence-length", "32", "--gradients", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnostics")
    write_model(folder / "run", CONFIG)
    (folder / "a.txt").write_text(PLAY * 8)
    (folder / "b.txt").write_text("Nel mezzo del cammin di nostra vita. " * 20)
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    return [str(folder / "run"), "--data", f"text:{folder}/a.txt", *SMALL, *more]


def test_the_numbers_of_every_part(folder: Path, tmp_path: Path, capsys, monkeypatch):
    out = tmp_path / "out"
    curvature = ["--curvature.iterations", "8", "--curvature.vectors", "2"]
    argv = arguments(folder, *PROBE, *curvature, "--out", str(out), "--json")
    with monkeypatch.context() as patch:  # stopped in its last part
        patch.setattr(
            Measuring, "_curvature", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            main(argv)
    assert (out / "progress/probe.safetensors").is_file()
    with monkeypatch.context() as patch:  # and the others are not done again
        patch.setattr(Measuring, "_probe", None)
        patch.setattr(Measuring, "_read", None)
        assert main(argv) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    lm = rg.load(folder / "run")
    assert lm.tokenizer is not None
    documents = SourceDocuments([f"text:{folder}/a.txt"], lm.tokenizer, vocab_size=1024)
    rows = first_rows(documents, tokens=256, length=32)
    moments, _ = jax.jit(
        lambda rows: layers.add_moments(lm.model, layers.no_moments(CONFIG), rows)
    )(rows)
    for place, measured in zip(("blocks.0", "blocks.1"), layers.measures(moments), strict=False):
        for name, value in measured.items():
            got = result[f"{place}/{name}"]
            assert got == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert (result["tokens"], result["width"]) == (256, CONFIG.width)
    assert 0 <= result["gradients/negative_share"] <= 1
    assert 1 <= result["gradients/effective_rank"] <= result["gradients/rows"] == 4
    weight = flat_params(lm.model)["blocks.1/mlp_block/ffw_up/weight"]
    norm = result["weight_norm/blocks.1/mlp_block/ffw_up/weight"]
    assert norm == pytest.approx(float(np.linalg.norm(weight)), rel=1e-5)
    assert result["probe"]["lost"] == pytest.approx(
        result["probe"]["loss"] - result["probe"]["fresh_loss"], abs=1e-5
    )
    assert result["probe"]["rows"] == 8
    assert abs(result["probe"]["lost"]) < 0.5  # this model is a fresh one, too
    assert result["hessian"]["top"] > max(0, result["hessian"]["bottom"])
    names = ("ranks", "units", "probe", "hessian", "rg_lru")
    assert {path.name for path in out.iterdir()} == {
        *(".lock", "result.json", *(f"{name}.svg" for name in names))
    }
    assert read_result(out)["settings"]["probe"]["learning_rate"] == 1e-3
    with pytest.raises(UserError, match=r"tokens 256 \(here 128\)"):
        main([*argv, "--tokens", "128"])


def test_chosen_layers_another_domain_and_a_runs_own_optimizer(
    folder: Path, tmp_path: Path, capsys
):
    run = tmp_path / "run"
    write_model(run, CONFIG)
    saved = json.loads((run / "config.json").read_text())
    saved["train"] = {"optimizer": {"learning_rate": 0.25, "beta2": 0.5}}
    (run / "config.json").write_text(json.dumps(saved))
    data = ["--data", f"text:{folder}/a.txt", "--probe.data", f"text:{folder}/b.txt"]
    out = ["--layers", "1", "--out", str(tmp_path / "out"), "--json"]
    assert main([str(run), *data, *SMALL, *PROBE, *out, "--gradients", "0"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "blocks.1/pca_rank" in result
    assert "final/pca_rank" in result
    assert "weight_norm/blocks.1/mlp_block/ffw_up/weight" in result
    assert not any("blocks.0/" in name or name.startswith("gradients/") for name in result)
    assert result["probe"]["loss"] > 0
    optimizer = read_result(tmp_path / "out")["settings"]["probe"]
    assert (optimizer["learning_rate"], optimizer["beta2"], optimizer["beta1"]) == (0.25, 0.5, 0.9)


def test_no_number_depends_on_the_batch_size_or_on_padding(folder: Path, capsys):
    """16 rows are asked for, 8 are there; three devices fill them up to 9."""

    def gradients(*more: str) -> dict[str, float]:
        assert main(arguments(folder, "--probe.steps", "0", "--json", *more)) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        return {name: value for name, value in result.items() if name.startswith("gradients/")}

    numbers = gradients("--gradients", "16", "--batch-size", "2")
    assert numbers["gradients/rows"] == 8
    more = ("--gradients", "8", "--batch-size", "16", "--devices", "3")
    assert gradients(*more) == pytest.approx(numbers, rel=1e-3)


def test_what_a_user_got_wrong(folder: Path, tmp_path: Path, capsys):
    run, data = str(folder / "run"), ["--data", f"text:{folder}/a.txt"]
    (tmp_path / "short.txt").write_text("To be")
    lm = rg.load(folder / "run")
    session = lm.session()
    session.read("Hi")
    session.save(tmp_path / "chat.session")
    wide = dataclasses.replace(CONFIG, pattern=("recurrent", "global_attention"), context_length=64)
    write_model(tmp_path / "global", wide)
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/model.safetensors").write_bytes(b"not one")
    for argv, message in (
        ([run, "--data", f"text:{tmp_path}/short.txt", "--probe.steps", "0"], r"rank of \d+"),
        ([run, *data, "--tokens", "8", "--sequence-length", "8"], r"--tokens 8, .*rank of 16"),
        ([run, *data, "--layers", "0", "7"], r"layer 7: the model has layers 0 to"),
        ([run, *data, "--layers", "-1"], r"layer -1"),
        ([run, *data, "--layers", "1", "0", "1"], r"layer 1 is named twice"),
        ([str(tmp_path / "chat.session"), *data], "session"),
        ([str(tmp_path / "torch"), *data], "model.safetensors"),
        ([str(tmp_path / "global"), *data], r"--sequence-length 512.*context_length=64"),
        (
            [run, *data, "--probe.length", "999", "--gradients", "0", "--probe.data", *data[1:]],
            "1 row of 999 tokens",
        ),
        ([run, *data, "--probe.steps", "0", "--probe.rows", "3"], "no effect with --probe.steps 0"),
        ([run, *data, "--curvature.vectors", "3"], "no effect without --curvature.iterations"),
        ([run, *data, "--curvature.rows", "0"], "--curvature.rows: expected at least 1"),
        ([run, *data, "--tokens", "32", "--sequence-length", "32"], "1 row of 32 tokens"),
        ([run, *data, "--gradients", "1"], "at least 2 to compare"),
        ([run, *data, "--sequence-length", "0"], "expected at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            main([*argv, "--devices", "1"])
    assert griffin_lm.main(["eval", "diagnostics", run, *data, "--layers", "9"]) == 2
    assert "layers 0 to" in capsys.readouterr().err
    assert store.is_ours(folder / "run")
