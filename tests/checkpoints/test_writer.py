# SPDX-License-Identifier: Apache-2.0
"""The writer of a run: in the background, whole or not at all, the newest and the best kept."""

import contextlib
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from checkpoints import step as step_files
from checkpoints import store, writer
from checkpoints.step import Restored
from tests.checkpoints import run_steps
from tests.checkpoints.conftest import small_config

CONFIG = small_config(num_layers=1)


def params(step: int) -> dict[str, jax.Array]:
    return {"a/w": jnp.full((64, 8), float(step)), "b": jnp.arange(5.0) + step}


def assert_is(restored: Restored | None, step: int) -> None:
    assert restored is not None
    assert restored.step == step
    for name, array in params(step).items():
        np.testing.assert_array_equal(restored.params[name], array)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    store.write_run_config(tmp_path / "run", CONFIG, {"steps": 30})
    return tmp_path / "run"


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """No step becomes whole before this is set."""
    allowed = threading.Event()
    write = step_files.write_checksums

    def wait(*arguments) -> None:
        assert allowed.wait(60)
        write(*arguments)

    monkeypatch.setattr(step_files, "write_checksums", wait)
    return allowed


def test_training_goes_on_while_it_writes(run_dir: Path, held_up: threading.Event):
    """A step is not there before it is whole, whatever becomes of the arrays."""
    with store.Checkpoints(run_dir) as checkpoints:
        train = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
        state = params(1)
        assert checkpoints.save(1, state, data_state={"next": 2})
        for _ in range(5):
            state = train(state)
        jax.block_until_ready(state)
        assert checkpoints.steps() == [1]
        assert store.all_steps(run_dir) == []
        assert store.latest_step(run_dir) is None
        held_up.set()
        checkpoints.wait()
        assert store.all_steps(run_dir) == [1]
        restored = checkpoints.restore()
    assert_is(restored, 1)
    assert restored is not None
    assert restored.data_state == {"next": 2}


def test_leaving_waits(run_dir: Path, held_up: threading.Event):
    with store.Checkpoints(run_dir) as checkpoints:
        checkpoints.save(1, params(1))
        threading.Timer(0.3, held_up.set).start()
    assert_is(run_steps.restore(run_dir), 1)


def test_a_step_holds_its_config_and_metrics(run_dir: Path):
    with store.Checkpoints(run_dir) as checkpoints:
        checkpoints.save(1, params(1), metrics={"held_out_bits_per_byte": float(jnp.float32(1.5))})
    step = run_dir / "checkpoints" / "1"
    config = json.loads((step / "config" / "metadata").read_text())
    assert config == {"model": CONFIG.to_json(), "train": {"steps": 30}}
    metrics = json.loads((step / "metrics" / "metadata").read_text())
    assert metrics == {"held_out_bits_per_byte": 1.5}


def test_the_best_are_kept_beside_the_newest(run_dir: Path):
    bits = {1: 3.0, 2: 1.5, 3: 2.0, 4: math.nan, 5: 2.5, 6: None, 7: 1.75, 8: 4.0}
    expected = {
        1: [1],
        2: [1, 2],
        3: [2, 3],
        4: [2, 3, 4],
        5: [2, 3, 4, 5],
        6: [2, 3, 5, 6],
        7: [2, 6, 7],
        8: [2, 7, 8],
    }
    for step, value in bits.items():  # opened anew each time: what is best is on disk
        with store.Checkpoints(run_dir, keep=2, best="bits", keep_best=2) as checkpoints:
            metrics = {} if value is None else {"bits": value, "loss": 1.0}
            checkpoints.save(step, params(step), metrics=metrics)
        assert store.all_steps(run_dir) == expected[step]
    assert run_steps.best_step(run_dir, "bits") == 2
    assert run_steps.best_step(run_dir, "bits", highest=True) == 8
    assert run_steps.best_step(run_dir, "loss") == 8  # of equals the newest
    assert run_steps.best_step(run_dir, "accuracy") is None


def test_some_steps_are_always_kept(run_dir: Path):
    with store.Checkpoints(run_dir, keep=1, always=(2, 9)) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, params(step))
    assert store.all_steps(run_dir) == [2, 4]
    with store.Checkpoints(run_dir, keep=1) as checkpoints:
        checkpoints.save(5, params(5))
    assert store.all_steps(run_dir) == [5]


def test_the_highest_is_best(run_dir: Path):
    with store.Checkpoints(run_dir, keep=1, best="accuracy", best_is="highest") as checkpoints:
        for step, accuracy in enumerate((0.5, 0.9, 0.7, 0.6)):
            checkpoints.save(step, params(step), metrics={"accuracy": accuracy})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3]
    assert store.all_steps(run_dir) == [1, 3]


def test_saving_a_step_again(run_dir: Path, held_up: threading.Event):
    held_up.set()
    with store.Checkpoints(run_dir) as checkpoints:
        assert checkpoints.save(5, params(5))
        assert not checkpoints.save(5, params(6))  # in flight, or saved: it is what it is
        checkpoints.wait()
        assert not checkpoints.save(5, params(6))
        with pytest.raises(ValueError, match="checkpoints/4: step 5 exists already; go on from"):
            checkpoints.save(4, params(4))
    with store.Checkpoints(run_dir) as checkpoints:
        with pytest.raises(ValueError, match="checkpoints/5: this step exists already"):
            checkpoints.save(5, params(6))  # it may be another run's
        assert_is(checkpoints.restore(), 5)
        assert not checkpoints.save(5, params(6))  # the one gone on from
        assert checkpoints.save(6, params(6))
    assert store.all_steps(run_dir) == [5, 6]


def test_what_a_killed_process_left_is_deleted(run_dir: Path):
    run_steps.save(run_dir, 1, params(1))
    steps = run_dir / "checkpoints"
    for name in ("2.orbax-checkpoint-tmp", "3.orbax-checkpoint-tmp-1700000000", "0.deleted"):
        (steps / name / "params").mkdir(parents=True)
    (steps / "notes.txt").write_text("mine")
    store.Checkpoints(run_dir).close()
    assert {path.name for path in steps.iterdir()} == {"1", "notes.txt"}


def test_a_full_disk_is_seen_before(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    with store.Checkpoints(run_dir) as checkpoints:
        checkpoints.save(1, params(1))
        checkpoints.wait()
        monkeypatch.setattr(
            writer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})
        )
        with pytest.raises(OSError, match=r"no space left: it needs 2\.07e-06 GB and 1e-06 GB are"):
            checkpoints.save(2, params(2))
        monkeypatch.undo()
        assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"1"}
        assert checkpoints.save(2, params(2))
    assert store.all_steps(run_dir) == [1, 2]


@contextlib.contextmanager
def failing(error: Exception) -> Iterator[None]:
    """Writing in the background fails."""

    def fail(*_arguments) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_files, "write_checksums", fail)
        yield


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("surfaces", ["save", "wait", "close", "restore"])
def test_a_failed_write_surfaces(run_dir: Path, surfaces: str, capfd):
    message = (
        r"checkpoints/2 was not saved, no space left: it needs .* GB and .* GB are free; step 1 is "
        r"still there; make space or keep fewer, and the same command goes on from there"
    )
    run_steps.save(run_dir, 1, params(1))
    checkpoints = store.Checkpoints(run_dir)
    call = {
        "save": lambda: checkpoints.save(3, params(3)),
        "wait": checkpoints.wait,
        "close": checkpoints.close,
        "restore": checkpoints.restore,
    }[surfaces]
    with failing(FULL):
        assert checkpoints.save(2, params(2))
        with pytest.raises(OSError, match=message):
            call()
    assert {path.name for path in (run_dir / "checkpoints").iterdir()} == {"1"}
    if surfaces != "close":
        assert checkpoints.steps() == [1]
        assert_is(checkpoints.restore(), 1)
        assert checkpoints.save(2, params(2))  # and the next one succeeds
        checkpoints.close()
        assert store.all_steps(run_dir) == [1, 2]
    assert capfd.readouterr().err == ""  # said once, by the error


def test_a_failed_write_does_not_hide_what_ended_the_run(run_dir: Path):
    reported: list[str] = []

    def run() -> None:
        with store.Checkpoints(run_dir, report=reported.append) as checkpoints:
            checkpoints.save(1, params(1))
            raise ZeroDivisionError

    with failing(FULL), pytest.raises(ZeroDivisionError):
        run()
    (line,) = reported
    assert "checkpoints/1 was not saved" in line
    assert "none was saved before; make space or keep fewer, and start again" in line


def test_nothing_is_deleted_for_a_step_that_fails(run_dir: Path):
    with store.Checkpoints(run_dir, keep=1) as checkpoints:
        checkpoints.save(1, params(1))
        checkpoints.wait()
        with failing(ZeroDivisionError("oh")):
            checkpoints.save(2, params(2))
            with pytest.raises(OSError, match=r"2 was not saved \(oh\); step 1 is still there"):
                checkpoints.wait()
        assert store.all_steps(run_dir) == [1]
        checkpoints.save(3, params(3))
    assert store.all_steps(run_dir) == [3]


def test_a_step_counts_once_it_has_been_read_back(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """Orbax is content, and what is on disk is not what was saved: nothing is deleted for it."""
    write = step_files.write_checksums

    def of_others(folder: Path, arrays: dict, hashes: dict) -> None:
        write(
            folder,
            {item: {n: s ^ 1 for n, s in sums.items()} for item, sums in arrays.items()},
            hashes,
        )

    with store.Checkpoints(run_dir, keep=1) as checkpoints:
        checkpoints.save(1, params(1))
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(step_files, "write_checksums", of_others)
            checkpoints.save(2, params(2))
            with pytest.raises(OSError, match=r"2 was not saved .*'a/w' .*; step 1 is still there"):
                checkpoints.wait()
        assert checkpoints.steps() == [1]
        assert_is(checkpoints.restore(), 1)
        with pytest.raises(ValueError, match="checkpoints/2: exists already; see if it can be"):
            checkpoints.save(2, params(2))
        checkpoints.save(3, params(3))
    assert_is(run_steps.restore(run_dir), 3)


def test_what_json_cannot_hold_is_refused_at_once(run_dir: Path):
    with store.Checkpoints(run_dir) as checkpoints:
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save(1, params(1), data_state={"order": np.arange(3)})
        assert checkpoints.save(1, params(1), data_state={"order": (0, 1, 2)})
        restored = checkpoints.restore()
        assert restored is not None
        assert restored.data_state == {"order": [0, 1, 2]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep=0: expected at least 1"),
        ({"keep_best": -1}, "keep_best=-1: expected 0 or more"),
        ({"best_is": "fastest"}, "best_is='fastest': expected 'lowest' or 'highest'"),
    ],
)
def test_bad_options(run_dir: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        store.Checkpoints(run_dir, **options)


def test_dtypes_on_restore(run_dir: Path):
    """Parameters are rounded as asked; an optimizer's state never is, but may be widened."""
    exact = {"w": jnp.linspace(-3, 3, 999, dtype=jnp.float32)}
    moments = {"mu": jnp.linspace(0, 1, 99, dtype=jnp.bfloat16), "count": jnp.int32(7)}
    with store.Checkpoints(run_dir) as checkpoints:
        checkpoints.save(1, exact, opt_state=moments)
    half = {"w": jax.ShapeDtypeStruct((999,), jnp.bfloat16)}
    wide = {"mu": jax.ShapeDtypeStruct((99,), jnp.float32), "count": jnp.int32(0)}
    restored = run_steps.restore(run_dir, params_like=half, opt_state_like=wide)
    np.testing.assert_array_equal(restored.params["w"], exact["w"].astype(jnp.bfloat16))
    assert restored.params["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(restored.opt_state["mu"], moments["mu"].astype(jnp.float32))
    assert restored.opt_state["count"] == 7
    for wrong in ("float16", "int32"):
        narrow = wide | {"mu": jax.ShapeDtypeStruct((99,), jnp.dtype(wrong))}
        with pytest.raises(ValueError, match=f"'mu' is stored in bfloat16 and {wrong} does not"):
            run_steps.restore(run_dir, opt_state_like=narrow)


def test_a_step_that_is_written_at_once(tmp_path: Path):
    """By an Orbax that does not write in the background."""
    items = step_files.items(params(3), config={"model": CONFIG.to_json()}, metrics={})
    with ocp.Checkpointer(step_files.step_handler()) as checkpointer:
        checkpointer.save(tmp_path / "3", items)
    assert_is(step_files.read(tmp_path / "3"), 3)
    assert step_files.read_checksums(tmp_path / "3") is not None
