# SPDX-License-Identifier: Apache-2.0
"""Killed at any point of a save, or with no space left: what was saved before is there, bit for
bit, and the next save works."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Only files of a few kilobytes may be written: the arrays do not fit, later no JSON does either.
LIMITED = """
import resource, sys
from pathlib import Path
from checkpoints import store
from tests.checkpoints.killed import opened, resume, save
from tests.checkpoints.conftest import small_config

run_dir = Path(sys.argv[1])
store.write_run_config(run_dir, small_config(), {})
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
with opened(run_dir) as checkpoints:
    save(checkpoints, 1)
    save(checkpoints, 2)
    checkpoints.wait()
    for limit in (40_000, 1500, 100, 0):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
        save(checkpoints, 3)
        try:
            checkpoints.wait()
        except OSError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        assert checkpoints.steps() == store.all_steps(run_dir) == [1, 2]
        assert resume(checkpoints) == 2
    save(checkpoints, 3)
    checkpoints.wait()
    assert resume(checkpoints) == 3
    print(sorted(path.name for path in (run_dir / "checkpoints").iterdir()))
"""


def python(*arguments: str) -> list[str]:
    """What a Python of its own prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("count", [10, pytest.param(80, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path: Path, count: int):
    lines = python("tests/checkpoints/killed.py", str(tmp_path / "run"), str(count))
    records = [json.loads(line) for line in lines]
    assert len(records) == count
    before = 0
    for record in records:
        assert record["died"] in (-9, -14), record
        assert record["status"] == 0, record
        (step,) = record["restored"]
        assert step >= record["whole"] >= before, record
        before = step + 1
    torn = [name for record in records for name in record["left"] if "tmp" in name]
    assert len(torn) > count / 3  # they do die in the middle of a save


def test_no_space_left(tmp_path: Path):
    *errors, last = python("-c", LIMITED, str(tmp_path / "run"))
    assert last == "['2', '3']"
    assert len(errors) == 4
    for error in errors:
        assert "checkpoints/3 was not saved, no space left: it needs 0.000158 GB and " in error
        assert "GB are free (file too large); step 2 is still there; make space or keep" in error
