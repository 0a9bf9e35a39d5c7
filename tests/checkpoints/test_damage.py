# SPDX-License-Identifier: Apache-2.0
"""A damaged checkpoint is reported and the one before it used; wrong values never come back."""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import store
from checkpoints.load import load_checkpoint
from checkpoints.open_checkpoint import Damaged
from checkpoints.step import Restored
from recurrentgemma.params import flat_params
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import random_params, small_config

CONFIG = small_config(num_layers=1, vocab_size=200)
NAMES = ("embedder/input_embedding", "final_norm/scale", "blocks.0/mlp_block/ffw_up/weight")


def state(step: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array], dict]:
    arrays = random_params(CONFIG, seed=step)
    params = {name: jnp.asarray(arrays[name]) for name in NAMES}
    moments = {name: array * 0.5 for name, array in params.items()}
    return params, {**moments, "count": jnp.int32(step)}, {"next_row": step * 8}


LIKE = state(0)[1]


def assert_is(restored: Restored | None, step: int) -> None:
    """Every bit that was saved at that step."""
    assert restored is not None
    assert restored.step == step
    params, opt_state, data_state = state(step)
    for got, expected in ((restored.params, params), (restored.opt_state, opt_state)):
        assert got.keys() == expected.keys()
        for name, array in expected.items():
            assert np.asarray(got[name]).tobytes() == np.asarray(array).tobytes(), name
    assert restored.data_state == data_state


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the steps 10 and 20."""
    run_dir = tmp_path_factory.mktemp("intact") / "run"
    store.write_run_config(run_dir, CONFIG, {"steps": 30})
    with store.Checkpoints(run_dir) as checkpoints:
        for step in (10, 20):
            save(checkpoints, step)
    return run_dir


def save(checkpoints: store.Checkpoints, step: int) -> None:
    params, opt_state, data_state = state(step)
    checkpoints.save(
        step, params, opt_state=opt_state, data_state=data_state, metrics={"loss": 1.0}
    )


@pytest.fixture
def run_dir(intact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(intact, tmp_path / "run")


def largest(folder: Path) -> Path:
    """The file that holds the arrays."""
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def cut(file: Path, to: int) -> None:
    file.write_bytes(file.read_bytes()[:to])


def flip(file: Path, at: int, bit: int = 0) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1 << bit
    file.write_bytes(raw)


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a data file of no bytes": lambda step: cut(largest(step / "params"), 0),
    "a data file cut off": lambda step: cut(largest(step / "params"), 5000),
    "a data file missing": lambda step: largest(step / "opt_state").unlink(),
    "a part missing": lambda step: shutil.rmtree(step / "params" / "ocdbt.process_0"),
    "a bit of a parameter": lambda step: flip(largest(step / "params"), 5000),
    "a bit of the optimizer": lambda step: flip(largest(step / "opt_state"), 4001, 7),
    "the list of arrays missing": lambda step: (step / "params" / "_METADATA").unlink(),
    "the list of arrays cut off": lambda step: cut(step / "opt_state" / "_METADATA", 300),
    "the list of arrays nested deeply": lambda step: (step / "params" / "_METADATA").write_text(
        "[" * 100_000
    ),
    "the index missing": lambda step: (step / "opt_state" / "manifest.ocdbt").unlink(),
    "the index cut off": lambda step: cut(step / "params" / "manifest.ocdbt", 20),
    "no parameters": lambda step: shutil.rmtree(step / "params"),
    "no optimizer": lambda step: shutil.rmtree(step / "opt_state"),
    "no checksums": lambda step: shutil.rmtree(step / "checksums"),
    "checksums cut off": lambda step: cut(step / "checksums" / "metadata", 100),
    "checksums of another kind": lambda step: edit(step / "checksums" / "metadata", arrays=[]),
    "the data's state cut off": lambda step: cut(step / "data_state" / "metadata", 5),
    "another state of the data": lambda step: edit(step / "data_state" / "metadata", next_row=9),
    "no state of the data": lambda step: shutil.rmtree(step / "data_state"),
    "garbled metrics": lambda step: cut(step / "metrics" / "metadata", 3),
    "another config": lambda step: edit(step / "config" / "metadata", train={}),
    "nothing in it": lambda step: (shutil.rmtree(step), step.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_step_before_is_used(damage: str, run_dir: Path):
    step = run_dir / "checkpoints" / "20"
    DAMAGES[damage](step)
    files = {f: f.read_bytes() for f in run_dir.rglob("*") if f.is_file()}

    with pytest.raises(Damaged, match=re.escape(str(step))):
        run_steps.restore(run_dir, 20, opt_state_like=LIKE)
    assert {f: f.read_bytes() for f in run_dir.rglob("*") if f.is_file()} == files

    reported: list[str] = []
    with store.Checkpoints(run_dir, keep=2, report=reported.append) as checkpoints:
        assert_is(checkpoints.restore(params_like=state(0)[0], opt_state_like=LIKE), 10)
        (line,) = reported
        aside = step.with_name("20.damaged")
        assert line.startswith(f"step 20 is damaged, and kept as {aside} (")
        assert line.endswith("; step 10 is the newest now")
        assert "\n" not in line
        for at in (20, 30):  # it is saved again, and does not count as one of the two kept
            save(checkpoints, at)
        checkpoints.wait()
        assert checkpoints.steps() == [20, 30]
        assert_is(checkpoints.restore(20, opt_state_like=LIKE), 20)
    kept = {f for f in files if step in f.parents}
    assert {aside / f.relative_to(step): files[f] for f in kept} == {
        f: f.read_bytes() for f in aside.rglob("*") if f.is_file()
    }


def test_a_flipped_bit_anywhere_never_gives_other_values(run_dir: Path):
    """In any file of a step: what comes back is what was saved, or nothing does."""
    random = np.random.default_rng(0)
    step = run_dir / "checkpoints" / "20"
    files = sorted(f for f in step.rglob("*") if f.is_file() and f.stat().st_size)
    noticed = 0
    for file in files * 8:
        before = file.read_bytes()
        flip(file, int(random.integers(len(before))), int(random.integers(8)))
        try:
            assert_is(run_steps.restore(run_dir, 20, opt_state_like=LIKE), 20)
        except Damaged:
            noticed += 1
        file.write_bytes(before)
    assert noticed > 2 * len(files)  # the others have a copy, or only tell of the devices


def test_none_is_whole(run_dir: Path):
    steps = run_dir / "checkpoints"
    for step in ("10", "20"):
        flip(largest(steps / step / "params"), 5000)
    with pytest.raises(
        Damaged, match=r"10/params: this checkpoint is damaged: '.*' holds other val"
    ):
        run_steps.restore(run_dir, 10)
    for _ in range(2):  # nor does a run start again from the beginning the next time
        with (
            store.Checkpoints(run_dir, report=lambda line: None) as checkpoints,
            pytest.raises(ValueError, match=r"no checkpoint is whole \(10.damaged, 20.damaged\)"),
        ):
            checkpoints.restore()


def test_the_same_step_damaged_twice(run_dir: Path):
    with store.Checkpoints(run_dir, report=lambda line: None) as checkpoints:
        for _ in range(2):
            flip(largest(run_dir / "checkpoints" / "20" / "params"), 5000)
            assert_is(checkpoints.restore(opt_state_like=LIKE), 10)
            save(checkpoints, 20)
            checkpoints.wait()
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {"10", "20", "20.damaged", "20.damaged.1"}


def test_loading_a_model_notices_too(run_dir: Path, tmp_path: Path):
    params = random_params(CONFIG)
    with store.Checkpoints(run_dir) as checkpoints:
        checkpoints.save(30, params)
    step = run_dir / "checkpoints" / "30"
    assert load_checkpoint(run_dir, dtype="bfloat16")[1].dtype == "bfloat16"
    flip(largest(step / "params"), 5000)
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(Damaged, match=r"30/params: .* '.*' holds other values than were saved"):
            load_checkpoint(run_dir, dtype=dtype)
    store.write(tmp_path / "bare", params, CONFIG)
    flip(largest(tmp_path / "bare" / "params"), 5000)
    with pytest.raises(Damaged, match="holds other values than were saved"):
        load_checkpoint(tmp_path / "bare")


def test_a_model_of_an_older_step_is_said_to_be_one(run_dir: Path, capsys):
    params = random_params(CONFIG)
    with store.Checkpoints(run_dir) as checkpoints:
        checkpoints.save(30, params)
        checkpoints.save(40, {name: array + 1 for name, array in params.items()})
    cut(run_dir / "checkpoints" / "40" / "config" / "metadata", 5)
    loaded = flat_params(load_checkpoint(run_dir)[0])
    for name, array in params.items():
        np.testing.assert_array_equal(loaded[name], array)
    output = capsys.readouterr()
    assert output.err.startswith("step 40 is damaged, the one before it is used (")
    assert output.out == ""


def test_what_another_model_wants_is_no_damage(run_dir: Path):
    """The step is whole: the one before it would not do either, and nothing is set aside."""
    reported: list[str] = []
    with store.Checkpoints(run_dir, report=reported.append) as checkpoints:
        for params_like, opt_state_like in ((None, {"count": jnp.int32(0)}), ({}, None)):
            with pytest.raises(ValueError, match="expected none: it is unknown") as raised:
                checkpoints.restore(params_like=params_like, opt_state_like=opt_state_like)
            assert not isinstance(raised.value, Damaged)
        with pytest.raises(ValueError, match=r"no step 15; it holds \[10, 20\]"):
            checkpoints.restore(15)
        assert checkpoints.steps() == [10, 20]
    assert reported == []


@contextlib.contextmanager
def locked_up(path: Path) -> Iterator[None]:
    """Nobody may read a file or folder; root neither."""
    mode, user = path.stat().st_mode, os.geteuid()
    path.chmod(0)
    if user == 0:
        opened = [folder for folder in path.parents if folder.stat().st_uid == 0]
        modes = {folder: folder.stat().st_mode for folder in opened}
        for folder in opened:
            folder.chmod(modes[folder] | 0o755)
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)
            for folder, before in modes.items():
                folder.chmod(before)
        path.chmod(mode)


def looping(file: Path) -> None:
    """A link to itself: there, and an error for everybody who opens it."""
    file.unlink()
    file.symlink_to(file)


UNREADABLE: dict[str, Callable[[Path], Path]] = {
    "arrays": lambda step: largest(step / "params"),
    "the index": lambda step: step / "opt_state" / "manifest.ocdbt",
    "the list of arrays": lambda step: step / "params" / "_METADATA",
    "checksums": lambda step: step / "checksums" / "metadata",
    "metrics": lambda step: step / "metrics" / "metadata",
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_what_cannot_be_opened_is_no_damage(what: str, run_dir: Path):
    """It may be whole: nothing is passed over, and nothing is renamed."""
    step = run_dir / "checkpoints" / "20"
    looping(UNREADABLE[what](step))
    before = sorted(run_dir.rglob("*"))
    reported: list[str] = []

    def resume() -> None:
        with store.Checkpoints(run_dir, report=reported.append) as checkpoints:
            checkpoints.restore(opt_state_like=LIKE)

    reads = [lambda: run_steps.restore(run_dir, 20, opt_state_like=LIKE), resume]
    for read in reads:
        with pytest.raises(OSError, match=r"checkpoints/20.*") as raised:
            read()
        assert raised.value.errno == errno.ELOOP
    assert reported == []
    assert sorted(run_dir.rglob("*")) == before


@pytest.mark.parametrize("part", [".", "checkpoints/20", "checkpoints/20/params"])
def test_without_permission(part: str, run_dir: Path):
    before = sorted(run_dir.rglob("*"))
    with locked_up(run_dir / part), pytest.raises(PermissionError, match="Permission denied"):
        run_steps.restore(run_dir, 20, opt_state_like=LIKE)
    with locked_up(run_dir / part), pytest.raises(PermissionError, match="Permission denied"):
        store.Checkpoints(run_dir)
    assert sorted(run_dir.rglob("*")) == before
