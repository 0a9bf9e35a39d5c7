# SPDX-License-Identifier: Apache-2.0
"""A whole run: what it leaves, and that one interrupted and resumed is the same bit for bit."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from checkpoints import store
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from tests.checkpoints import run_steps
from tests.drawn import untrained
from training import loop, run, run_folder
from training.configs import TrainConfig
from training.data.batches import Batches
from training.data.config import open_texts
from training.data.documents import document_ids
from training.launch import Launch
from training.observe.metrics import TIMINGS, read_metrics
from training.optim import make_optimizer
from training.step import init_train_state


def train(config: TrainConfig, run_dir: Path) -> bool:
    return loop.train(config, run_dir, Launch(devices=1))


def left_by(run_dir: Path, config: TrainConfig) -> dict:
    """All that a run leaves: parameters, optimizer, data order and metrics of every checkpoint."""
    _, params = nnx.split(untrained(config.model, 1), nnx.Param)
    fresh = init_train_state(params, make_optimizer(config.optimizer, steps=config.steps))
    documents = [np.arange(2)]
    steps = {}
    with run.open_checkpoints(run_dir, config) as checkpoints:
        for step in checkpoints.steps():
            batches = Recorded(documents, batch_size=1, row_length=1, seed=0)
            train_state = run.restore(
                checkpoints, batches, config=config.model, fresh=fresh, step=step
            )
            leaves = jax.tree_util.tree_leaves_with_path(train_state)
            arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
            steps[step] = (arrays, batches.restored)
    records = read_metrics(run_dir / run_folder.METRICS)
    for record in records:
        for name in TIMINGS:
            del record[name]
    return {"steps": steps, "metrics": records}


class Recorded(Batches):
    """Takes any state, and keeps it to be looked at."""

    def restore(self, state):
        self.restored = state


def assert_same(one: dict, other: dict) -> None:
    assert one["metrics"] == other["metrics"]
    assert one["steps"].keys() == other["steps"].keys()
    for step, (arrays, data_state) in one["steps"].items():
        other_arrays, other_data_state = other["steps"][step]
        assert data_state == other_data_state
        assert arrays.keys() == other_arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, other_arrays[name], err_msg=f"{step} {name}")


@pytest.fixture(scope="module")
def whole_run(small: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the uninterrupted run, not to be touched."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    assert train(small, run_dir)
    return run_dir


@pytest.fixture(scope="module")
def whole(small: TrainConfig, whole_run: Path) -> dict:
    """What the uninterrupted run leaves."""
    return left_by(whole_run, small)


@pytest.fixture
def cut_short(whole_run: Path, tmp_path: Path) -> Path:
    """A copy of that run whose newest checkpoint, step 12, is lost."""
    run_dir = tmp_path / "cut_short"
    shutil.copytree(whole_run, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / "12")
    return run_dir


def test_a_run_leaves_its_config_metrics_and_checkpoints(small, whole_run, whole, capsys):
    assert list(whole["steps"]) == [8, 12]
    assert [record["step"] for record in whole["metrics"]] == [2, 4, 5, 6, 8, 10, 12]
    assert [r["step"] for r in whole["metrics"] if "held_out_bits_per_byte" in r] == [5, 10, 12]
    losses = [record["loss"] for record in whole["metrics"]]
    assert losses[-1] < losses[0] - 1
    saved = json.loads((whole_run / "config.json").read_text())
    assert saved == {"model": small.model.to_json(), "train": small.to_json()}
    assert train(small, whole_run)  # done already: nothing is trained again
    assert "is trained: step 12 of 12" in capsys.readouterr().out
    assert_same(left_by(whole_run, small), whole)


def train_until_signal(number: int, step: int, config: TrainConfig, run_dir: Path, monkeypatch):
    """Train, and have the signal arrive while the batch of `step` is made."""
    real = Batches.__next__

    def next_batch(batches: Batches):
        if batches.state()["next_row"] == (step - 1) * config.batch_size:
            os.kill(os.getpid(), number)
        return real(batches)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(Batches, "__next__", next_batch)
        assert not train(config, run_dir)
    assert signal.getsignal(number) is before


def test_interrupted_and_resumed_is_the_same(small, tmp_path, whole, monkeypatch, capsys):
    train_until_signal(signal.SIGINT, 7, small, tmp_path / "stopped", monkeypatch)
    assert store.latest_step(tmp_path / "stopped") == 7
    assert "stopped at step 7" in capsys.readouterr().out
    assert train(small, tmp_path / "stopped")
    assert_same(left_by(tmp_path / "stopped", small), whole)


def test_sigterm_on_a_step_that_is_saved_anyway_saves_once(small, cut_short, monkeypatch):
    shorter = dataclasses.replace(small, save_every=1)
    store.write_run_config(cut_short, shorter.model, shorter.to_json())
    train_until_signal(signal.SIGTERM, 9, shorter, cut_short, monkeypatch)
    assert store.all_steps(cut_short) == [8, 9]


def test_killed_without_warning_and_resumed_is_the_same(small, cut_short, whole):
    """The newest checkpoint is lost and the metrics run ahead of the one before."""
    with (cut_short / run_folder.METRICS).open("a") as file:
        file.write('{"step": 14, "loss"')
    assert train(small, cut_short)
    assert_same(left_by(cut_short, small), whole)


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    small, tmp_path, whole, monkeypatch, capsys
):
    run_dir = tmp_path / "damaged"
    train_until_signal(signal.SIGTERM, 10, small, run_dir, monkeypatch)
    newest = run_dir / "checkpoints" / "10"
    arrays = max((newest / "params").rglob("d/*"), key=lambda file: file.stat().st_size)
    raw = bytearray(arrays.read_bytes())
    raw[2000] ^= 1
    arrays.write_bytes(raw)
    assert train(small, run_dir)
    shown = capsys.readouterr().out
    assert f"step 10 is damaged, and kept as {newest}.damaged (" in shown
    assert "step 8 is the newest now" in shown
    assert_same(left_by(run_dir, small), whole)


def test_a_damaged_last_checkpoint_is_trained_again(small, tmp_path, whole_run, whole, capsys):
    run_dir = tmp_path / "damaged"
    shutil.copytree(whole_run, run_dir)
    arrays = max((run_dir / "checkpoints/12/params").rglob("d/*"), key=lambda f: f.stat().st_size)
    raw = bytearray(arrays.read_bytes())
    raw[2000] ^= 1
    arrays.write_bytes(raw)
    assert train(small, run_dir)
    assert "step 12 is damaged, and kept as" in capsys.readouterr().out
    assert_same(left_by(run_dir, small), whole)


def test_a_full_disk_ends_the_run_and_loses_nothing(small, cut_short, whole, monkeypatch, capsys):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("checkpoints.step.write_checksums", full)
        with pytest.raises(
            OSError, match=r"12 was not saved, no space left: .* step 8 is still th"
        ):
            train(small, cut_short)
    assert store.all_steps(cut_short) == [8]
    assert train(small, cut_short)
    assert_same(left_by(cut_short, small), whole)


KILLED = """
import os, signal, sys
from pathlib import Path
from recurrentgemma.config import GriffinConfig
from tests.compiling import QUICKLY, compiling
from training import loop
from training.configs import TrainConfig
from training.data.batches import Batches
from training.launch import Launch
import json

run_dir, steps = Path(sys.argv[1]), [int(step) for step in sys.argv[2:]]
found = json.loads((run_dir / "config.json").read_text())
config = TrainConfig.from_json(GriffinConfig.from_json(found["model"]), found["train"])
real, row = Batches.__next__, config.batch_size

def next_batch(batches):
    batch = real(batches)
    if batches.state()["next_row"] == kill * row:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch

Batches.__next__ = next_batch
for kill in steps:
    child = os.fork()
    if not child:
        with compiling(**{QUICKLY: True}):  # as `whole`: the same bits
            loop.train(config, run_dir, Launch(devices=1))
        os._exit(0)
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize(
    "kills", [(7,), pytest.param((1, 2, *range(3, 13)), marks=pytest.mark.slow)], ids=len
)
def test_killed_at_any_step_and_resumed_is_the_same(small, tmp_path, whole, kills):
    """With -9, a checkpoint being written each time: parameters, optimizer, order of the data and
    metrics, of which none comes twice."""
    often = dataclasses.replace(small, save_every=1)
    run.begin_run(tmp_path / "killed", often, ByteTokenizer())
    environment = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_NUMPY_DTYPE_PROMOTION": "strict",
    }
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), *map(str, kills), "0"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    exits = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert exits == ["exit -9"] * len(kills) + ["exit 0"], done.stderr
    killed = left_by(tmp_path / "killed", often)
    assert killed["metrics"] == whole["metrics"]
    killed["steps"] = {12: killed["steps"][12]}
    assert_same(killed, whole | {"steps": {12: whole["steps"][12]}})


def test_a_run_goes_on_with_scanned_layers(small, cut_short, whole_run):
    """Checkpoints name parameters and moments layer by layer, however the model stacks them."""
    scanned = dataclasses.replace(small, model=dataclasses.replace(small.model, scan_layers=True))
    store.write_run_config(cut_short, scanned.model, scanned.to_json())
    assert train(scanned, cut_short)
    unrolled = run_steps.restore(whole_run, 12).params
    for name, array in run_steps.restore(cut_short, 12).params.items():
        np.testing.assert_allclose(array, unrolled[name], rtol=0.02, atol=2e-3, err_msg=name)


def test_another_config_is_refused_with_what_differs(small, whole_run):
    other = dataclasses.replace(
        small, seed=1, optimizer=dataclasses.replace(small.optimizer, learning_rate=0.5)
    )
    with pytest.raises(
        ValueError, match=r"optimizer\.learning_rate: 0\.01 -> 0\.5; seed: 0 -> 1\. Ask for"
    ):
        train(other, whole_run)


def test_another_text_under_the_same_name_is_refused(small, song, cut_short):
    text = song.read_text()
    song.write_text(text.replace("green", "brown"))
    try:
        with pytest.raises(ValueError, match=r"fingerprint .* the text, the tokenizer"):
            train(small, cut_short)
    finally:
        song.write_text(text)


def test_a_directory_of_something_else_is_refused(small, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="mine exists and is not a run"):
        train(small, tmp_path / "mine")


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(small, tmp_path):
    model = dataclasses.replace(small.model, vocab_size=200)
    with pytest.raises(ValueError, match=r"vocab_size=200 is too small .*'bytes', which has 261"):
        train(dataclasses.replace(small, model=model), tmp_path / "narrow")


def test_a_tokenizer_is_trained_once_and_kept_with_the_run(small, tmp_path):
    config = dataclasses.replace(
        small,
        model=dataclasses.replace(small.model, vocab_size=320),
        tokenizer="sentencepiece",
    )
    texts = [open_texts(config.text)[0][0]]
    pieces = run.run_tokenizer(tmp_path / "pieces", config, texts)
    assert pieces.vocab_size == 320
    assert not (tmp_path / "pieces").exists()
    run.begin_run(tmp_path / "pieces", config, pieces)
    again = run.run_tokenizer(tmp_path / "pieces", config, ())  # no text: it is read, not trained
    reuse = dataclasses.replace(config, tokenizer=str(tmp_path / "pieces" / "tokenizer.model"))
    reused = run.run_tokenizer(tmp_path / "reused", reuse, ())
    [text] = texts
    assert again.encode(text) == reused.encode(text) == pieces.encode(text)


def test_a_document_starts_with_bos_and_ends_with_eos():
    tokenizer = ByteTokenizer()
    ids = document_ids(tokenizer, "Ay")
    assert ids.tolist() == [tokenizer.bos_id, *b"Ay", tokenizer.eos_id]
