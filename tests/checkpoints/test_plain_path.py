# SPDX-License-Identifier: Apache-2.0
"""A run may lie in a folder of any name."""

import os
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import recurrentgemma as rg
from checkpoints import deepmind_flax, plain_path, store
from checkpoints.load import load_checkpoint
from recurrentgemma.errors import UserError
from recurrentgemma.params import flat_params
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import random_params, small_config

CONFIG = small_config(num_layers=1, vocab_size=256)
PARAMS = random_params(CONFIG)
CHARACTERS = sorted(set(map(chr, range(32, 127))) - {"/"})
ALONE = [c for c in CHARACTERS if not c.isalnum()]
NAMES = [*ALONE, "".join(c for c in CHARACTERS if c.isalnum())]
OTHERS = ["a.__lock", "zwölf", "\udcff", "line\nbreak", "".join(CHARACTERS)]


def save_and_read(run_dir: Path) -> None:
    """Three steps, of which the best and the newest are kept; then everything that reads."""
    store.write_run_config(run_dir, CONFIG, {})
    with store.Checkpoints(run_dir, keep=1, best="loss") as checkpoints:
        for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0)):
            params = {"final_norm/scale": PARAMS["final_norm/scale"]} if step < 3 else PARAMS
            checkpoints.save(
                step, params, opt_state={"count": jnp.int32(step)}, metrics={"loss": loss}
            )
    assert store.all_steps(run_dir) == [2, 3]
    assert run_steps.best_step(run_dir, "loss") == 2
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"2", "3"}
    reported: list[str] = []
    with store.Checkpoints(run_dir, report=reported.append) as checkpoints:
        restored = checkpoints.restore(opt_state_like={"count": jnp.int32(0)})
        assert restored is not None
        assert restored.opt_state["count"] == restored.step == 3
        assert checkpoints.steps() == [2, 3]
    assert reported == []
    for name, array in PARAMS.items():
        np.testing.assert_array_equal(restored.params[name], array)


@pytest.mark.parametrize(
    "names",
    [
        ["".join(NAMES[i::5]) for i in range(5)],  # the first has letters and digits, too
        *(pytest.param(NAMES[i::4], marks=pytest.mark.slow) for i in range(4)),
    ],
    ids=lambda names: f"{len(names)} names of {names[0]}",
)
def test_every_character(names: list[str], tmp_path: Path):
    """With others in one name and, slow, by itself."""
    for name in names:
        run_dir = tmp_path / f"parent{name}" / f"{name}run{name}here"
        save_and_read(run_dir)
        rg.load(run_dir)
    assert len(list(tmp_path.iterdir())) == len(names)  # nothing was written beside them


def test_a_path_that_goes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`--run-dir ../run`: TensorStore refuses such a path, so every checkpoint was set aside."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_and_read(Path("../run"))
    rg.load("../run")
    assert {path.name for path in tmp_path.iterdir()} == {"here", "run"}


@pytest.mark.parametrize("name", OTHERS)
def test_other_names(name: str, tmp_path: Path):
    run_dir = tmp_path / name / f"{name}run"
    save_and_read(run_dir)
    assert flat_params(load_checkpoint(run_dir)[0]).keys() == PARAMS.keys()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", OTHERS)
def test_a_single_tree(name: str, tmp_path: Path):
    """DeepMind's format, and a bare checkpoint of ours."""
    folder = tmp_path / name
    deepmind_flax.write(folder, dict(PARAMS), CONFIG)
    store.write(tmp_path / "bare" / name, dict(PARAMS), CONFIG)
    for path in (folder, tmp_path / "bare" / name):
        read = flat_params(load_checkpoint(path)[0])
        for key, array in PARAMS.items():
            np.testing.assert_array_equal(read[key], array)
    assert {path.name for path in tmp_path.iterdir()} == {name, "bare"}


def test_a_plain_path_is_used_as_it_is(tmp_path: Path):
    assert plain_path.plain(tmp_path) == tmp_path
    folder = tmp_path / "[1]"
    link = plain_path.plain(folder)
    assert plain_path.is_plain(link)
    assert Path(os.readlink(link)) == folder
    link.unlink()  # as programs do that clear /tmp
    assert plain_path.plain(folder).is_symlink()


def test_no_plain_path_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is refused before anything is trained or written."""
    run_dir = tmp_path / "run #1"
    store.write_run_config(run_dir, CONFIG, {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp [1]"))
    plain_path._links.cache_clear()
    with pytest.raises(UserError, match=r"tmp \[1\]: to reach a folder .* set TMPDIR"):
        store.Checkpoints(run_dir)
    assert [path.name for path in run_dir.iterdir()] == ["config.json"]
    plain_path._links.cache_clear()
