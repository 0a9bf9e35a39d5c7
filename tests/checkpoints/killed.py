# SPDX-License-Identifier: Apache-2.0
"""Processes that die while they save, one after the other in one run. Not a test: see
test_killed.py.

    python killed.py RUN_DIR COUNT

Of COUNT processes half die at a call that touches a file, half at a moment; each goes on where the
one before it died. Prints one line of JSON for each: where it died, the newest step that it knew to
be whole, and the one that is found.
"""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from checkpoints import store
from kernels.measure.command import options
from tests.checkpoints.conftest import small_config

CALLS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.scandir"}
SHAPES = {"a/w": (300, 64), "b/w": (64, 8), "c": (5,)}


def state(step: int) -> dict[str, Any]:
    random = np.random.default_rng(step)
    return {name: random.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def placed(step: int) -> dict[str, jax.Array]:
    return {name: jax.numpy.asarray(array) for name, array in state(step).items()}


def resume(checkpoints: store.Checkpoints) -> int:
    """The newest step; every bit of it must be what was saved."""
    restored = checkpoints.restore(params_like=placed(0), opt_state_like=placed(0))
    if restored is None:
        return 0
    assert restored.data_state == {"next": restored.step}
    for got, step in (
        (restored.params, restored.step),
        (restored.opt_state, restored.step + 10**6),
    ):
        for name, array in state(step).items():
            assert np.asarray(got[name]).tobytes() == array.tobytes(), (restored.step, name)
    return restored.step


def save(checkpoints: store.Checkpoints, step: int) -> None:
    checkpoints.save(
        step,
        placed(step),
        opt_state=placed(step + 10**6),
        data_state={"next": step},
        metrics={"loss": abs(step % 7 - 3)},
    )


def opened(run_dir: Path) -> store.Checkpoints:
    return store.Checkpoints(run_dir, keep=2, best="loss", report=lambda line: sys.exit(line))


def train(run_dir: Path, calls: int | None, seconds: float, pipe: int) -> None:
    """Save step after step, and tell of each that is known to be whole; until death, after so many
    calls or else seconds."""
    folder, left = str(run_dir.absolute() / "checkpoints"), calls or 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal left
        if event in CALLS and str(arguments[0]).startswith(folder):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    with opened(run_dir) as checkpoints:
        step = resume(checkpoints)
        os.write(pipe, f"{step}\n".encode())
        if calls is None:
            signal.setitimer(signal.ITIMER_REAL, seconds)  # its default is death
        else:
            sys.addaudithook(watch)
        while True:
            save(checkpoints, step + 1)
            os.write(pipe, f"{step}\n".encode())
            step += 1


def look(run_dir: Path, pipe: int) -> None:
    """What is found after a death; and the next save works."""
    with opened(run_dir) as checkpoints:
        step = resume(checkpoints)
        os.write(pipe, f"{step}\n".encode())
        save(checkpoints, step + 1)
        checkpoints.wait()
        assert resume(checkpoints) == step + 1
        names = {path.name for path in (run_dir / "checkpoints").iterdir()}
        assert names == {str(step) for step in checkpoints.steps()}, names


def forked(function: Any, *arguments: Any) -> tuple[int, list[int]]:
    """Run it in a child that has imported everything; its exit status and what it told."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            function(*arguments, write)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        lines = [int(line) for line in told]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines


def main(run_dir: Path, count: int) -> None:
    store.write_run_config(run_dir, small_config(), {})
    for i in range(count):
        part = (i + 1) / count
        died, whole = forked(train, run_dir, None if i % 2 else int(part * 80), part * 0.4)
        left = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
        status, step = forked(look, run_dir)
        record = {"died": died, "whole": whole[-1] if whole else None, "left": left}
        print(json.dumps(record | {"status": status, "restored": step}), flush=True)


if __name__ == "__main__":
    parser = options(__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("count", type=int)
    main(**vars(parser.parse_args()))
