# SPDX-License-Identifier: Apache-2.0
"""Strictness for every test, and eight fake CPU devices. Set before anything imports JAX."""

import contextlib
import gc
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the griffin command has it
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # JAX_PLATFORMS=cuda pytest -m gpu

import hypothesis
import jax
import pytest

from tests.compiling import QUICKLY, by_processes, compiling, for_users, kept_in

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# What a shell starts in the background ignores Ctrl-C, and so would what the tests start there.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tracing makes very many objects that live on: looking through all of them as often as Python does
# by itself is a tenth of what tests take that trace much.
gc.set_threshold(50_000, 50, 100)

# `ci` draws the same examples on every machine; HYPOTHESIS_PROFILE=explore looks for new ones.
# No deadline: the first example of a shape pays for its compilation.
quiet = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, suppress_health_check=quiet
)
hypothesis.settings.register_profile("explore", deadline=None, suppress_health_check=quiet)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


DAYS = 7  # that a compiled program is kept


@pytest.fixture(scope="session")
def compiled(pytestconfig: pytest.Config) -> Iterator[Path]:
    """Where compiled programs are kept, of all workers together and for the next run (`make clean`
    empties it). JAX names them by all that goes into them, its own version included."""
    folder = pytestconfig.cache.mkdir("compiled")
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another worker was first
            if path.stat().st_mtime < time.time() - DAYS * 86400:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    yield folder
    # Some of those processes are killed while they write: theirs are for this run alone.
    shutil.rmtree(by_processes(folder), ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def compiled_quickly(compiled: Path) -> Iterator[None]:
    """Compiling is most of what tests do, and most of them look at values alone: LLVM does without
    its slow passes, and what was compiled before is read back, by processes that a test starts
    too. Bits are compared of one program with itself, which any compilation allows."""
    with compiling(**kept_in(compiled), **{QUICKLY: True}):
        yield


@pytest.fixture(scope="module")
def compiled_for_users(compiled_quickly: None) -> Iterator[None]:
    """For tests of what a compiler makes, and of values in programs as users run them."""
    with for_users():
        yield


@pytest.fixture
def traced_anew() -> Iterator[None]:
    """For tests that break or change what a compiled function calls: it is traced again, and the
    broken one forgotten."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what tests/long.txt names, which `make quick` leaves out."""
    folder = Path(__file__).parent
    lines = (folder / "long.txt").read_text("utf-8").splitlines()
    named = [line.split("#")[0].strip() for line in lines]
    kept = tuple(name[1:].strip() for name in named if name.startswith("+"))
    long = {name for name in named if name and not name.startswith("+")}
    for item in items:
        file = item.path.relative_to(folder).as_posix() if item.path.is_relative_to(folder) else ""
        if file in long and not f"{file}::{item.name}".startswith(kept or ("\0",)):
            item.add_marker("long")
