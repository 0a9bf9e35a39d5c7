# SPDX-License-Identifier: Apache-2.0
"""`griffin eval extrapolation`: several models on the same pieces, and where it goes on."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import recurrentgemma as rg
from eval import perplexity as perplexity_module
from eval import ray_perplexity
from eval.extrapolation_cli import main, training_length
from eval.results import read_result
from recurrentgemma.errors import UserError
from recurrentgemma.presets import MQA
from recurrentgemma.text.tokenizer import train_sentencepiece
from tests.checkpoints.test_ray_cluster import FakeRay
from tests.docs.world import CONFIG, PLAY, write_model
from tests.eval.test_ray_perplexity import check_same
from tests.ray_nodes import ended, ended_without_a_node, killed, ray_nodes

SMALL = ["--devices", "1", "--chunk-length", "64", "--batch-size", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Griffin as if trained at 4, and MQA that holds 16 keys and does not say."""
    folder = tmp_path_factory.mktemp("extrapolation")
    write_model(folder / "griffin")
    path = folder / "griffin/config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "train": {"sequence_length": 4}}))
    write_model(
        folder / "mqa", dataclasses.replace(CONFIG, pattern=MQA, context_length=16, num_layers=1)
    )
    for number in range(3):
        (folder / f"{number}.txt").write_text(PLAY * (3 + 2 * number) + str(number))
    return folder


def arguments(folder: Path, *more: str) -> list[str]:
    models = [str(folder / "griffin"), str(folder / "mqa")]
    return [*models, "--data", f"text:{folder}/*.txt", *SMALL, *more]


def test_every_model_reads_the_same_pieces(folder: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert main(arguments(folder, "--out", str(out), "--json")) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["length"], result["documents"]) == (128, 3)
    assert result["pieces"] == sum((58 * (3 + 2 * n) + 1) // 128 for n in range(3))
    assert result["intervals"] == "95% intervals, Student's t over 3 documents"
    griffin, mqa = result["models"]
    assert (griffin["label"], mqa["label"]) == ("Griffin, trained at 4", "MQA")
    assert (griffin["trained_at"], mqa["trained_at"]) == (4, None)
    lm = rg.load(folder / "griffin")
    assert lm.tokenizer is not None
    losses = []
    for number in range(3):
        ids = lm.tokenizer.encode((folder / f"{number}.txt").read_text())
        pieces = [
            -lm.score(ids[start : start + 129]).astype(np.float64)
            for start in range(0, len(ids) - 128, 128)
        ]
        losses.append(np.mean([piece[31:63].mean() for piece in pieces]))
    bucket = griffin["by_position"][1]
    assert bucket["name"] == "32 to 63"
    assert bucket["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert np.isfinite(mqa["by_position"][-1]["loss"])  # past the keys that it was saved with
    assert sorted(path.name for path in out.glob("*.svg")) == [
        *("loss_by_length.svg", "loss_by_position.svg"),
    ]


def test_a_model_that_is_done_is_not_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    score_all, calls = perplexity_module.score_all, []

    def counted(model, *args, **kwargs):
        calls.append(kwargs["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score_all(model, *args, **kwargs)

    monkeypatch.setattr(perplexity_module, "score_all", counted)
    argv = arguments(folder, "--length", "64", "--out", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        main(argv)
    assert main(argv) == 0
    assert calls == ["rows-0", "rows-1", "rows-1"]
    with pytest.raises(UserError, match=r"length 64 \(here 32\)"):
        main(arguments(folder, "--length", "32", "--out", str(tmp_path)))
    assert read_result(tmp_path)["result"]["length"] == 64


def test_on_a_cluster_the_numbers_are_those_alone(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay())
    argv = arguments(folder, "--length", "64", "--batch-size", "1", "--out")
    main([*argv, str(tmp_path / "alone")])
    tasks, real = [], ray_perplexity.score_group

    def counted(wanted, numbers):
        tasks.append((Path(wanted.path).name, numbers))
        return real(wanted, numbers)

    monkeypatch.setattr(ray_perplexity, "score_group", counted)
    main([*argv, str(tmp_path / "ray"), "--ray", "local"])
    assert sorted(tasks) == [(name, [n]) for name in ("griffin", "mqa") for n in range(3)]
    ours, theirs = (read_result(tmp_path / out)["result"] for out in ("ray", "alone"))
    check_same(ours, theirs)


@pytest.mark.slow  # three nodes, each of which imports JAX and compiles
def test_three_nodes_one_lost_and_the_driver_too(folder: Path, tmp_path: Path):
    argv = ["eval", "extrapolation", *arguments(folder, "--length", "64", "--batch-size", "1")]
    with ray_nodes(3) as (address, tell):
        ended([*argv, "--out", str(tmp_path / "alone")])
        command = [*argv, "--out", str(tmp_path / "ray"), "--ray", address]

        def groups() -> int:
            return len(list((tmp_path / "ray").glob("progress/group-*.safetensors")))

        killed(command, groups)
        ended_without_a_node(command, tell, lambda: groups() > 1)
    ours, theirs = (read_result(tmp_path / out)["result"] for out in ("ray", "alone"))
    check_same(ours, theirs)


def test_what_a_user_got_wrong(folder: Path, tmp_path: Path):
    data = ["--data", f"text:{folder}/*.txt", *SMALL]
    with pytest.raises(UserError, match="none of these models says how long"):
        main([str(folder / "mqa"), *data])
    with pytest.raises(UserError, match="--trained-at has 1 lengths for 2 models"):
        main(arguments(folder, "--trained-at", "4"))
    with pytest.raises(UserError, match="no document has the 100,000 tokens of a piece"):
        main(arguments(folder, "--length", "100000"))
    write_model(tmp_path / "pieces")
    (tmp_path / "pieces/byte_tokenizer.json").unlink()
    train_sentencepiece([PLAY], 300).save(tmp_path / "pieces")
    with pytest.raises(UserError, match="different tokenizers"):
        main([str(folder / "griffin"), str(tmp_path / "pieces"), *data])


def test_a_run_says_how_long_its_sequences_were(folder: Path, tmp_path: Path):
    assert training_length(folder / "griffin") == 4
    assert training_length(folder / "mqa") is None
    assert training_length(tmp_path / "nothing") is None
    (tmp_path / "config.json").write_text('{"model": {}, "train": {"row_length": 9}}')
    assert training_length(tmp_path / "checkpoints" / "100") == 9
