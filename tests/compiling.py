# SPDX-License-Identifier: Apache-2.0
"""How the programs of tests are compiled."""

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax._src import compiler, lru_cache
from jax.experimental.compilation_cache import compilation_cache

QUICKLY = "jax_disable_most_optimizations"  # LLVM does without its slow passes
# Go with it, as options of XLA that jax.config lacks. Its older way of emitting CPU kernels, by
# LLVM alone, takes 0.4 of the time of the newer one, which goes through MLIR.
OLDER_EMITTERS = ("xla_cpu_use_fusion_emitters", False)
# A program is one module for LLVM, not 32, which have a cost each: 0.75 of the time on one core.
WHOLE = ("xla_cpu_parallel_codegen_split_count", 1)

KEPT_IN = "jax_compilation_cache_dir"


def kept_in(folder: Path) -> dict[str, object]:
    """Options: every program is kept there, and read back where it is compiled again."""
    return {
        KEPT_IN: str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@contextlib.contextmanager
def compiling(**options: object) -> Iterator[None]:
    """With these of JAX's options, here and in processes that are started here, which keep their
    programs in a folder of their own (by_processes). What was compiled before, or is compiled
    meanwhile, is used on that side only."""
    before = {name: jax.config.values[name] for name in options}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            if value is None:
                patch.delenv(name.upper(), raising=False)
            else:
                of_processes = by_processes(Path(str(value))) if name == KEPT_IN else value
                patch.setenv(name.upper(), str(of_processes))
        patch.setattr(lru_cache.LRUCache, "put", _put_whole)
        if QUICKLY in options:
            of_xla = (WHOLE, OLDER_EMITTERS) if options[QUICKLY] else ()
            patch.setattr(compiler, "get_compile_options", functools.partial(_with, of_xla))
            # Of processes: here they have been read.
            flags = os.environ.get("XLA_FLAGS", "").split()
            flags = [flag for flag in flags if flag not in map(_flag, (WHOLE, OLDER_EMITTERS))]
            patch.setenv("XLA_FLAGS", " ".join([*flags, *map(_flag, of_xla)]))
        _set(options)
        try:
            yield
        finally:
            _set(before)


@contextlib.contextmanager
def for_users() -> Iterator[None]:
    """As users compile. `@for_users()` stands above a test, too."""
    with compiling(**{KEPT_IN: None, QUICKLY: False}):
        yield


def by_processes(folder: Path) -> Path:
    """Where processes that this one starts keep what they compile, in a folder of programs."""
    return folder / f"processes-of-{os.getpid()}"


def _put_whole(cache: lru_cache.LRUCache, key: str, value: bytes) -> None:
    """LRUCache.put, but a file is there whole or not at all: all workers of a run have one folder,
    and JAX writes into the file that another one may read."""
    path = Path(str(cache.path)) / f"{key}{lru_cache._CACHE_SUFFIX}"
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    unfinished.write_bytes(value)
    unfinished.replace(path)


_compile_options = compiler.get_compile_options


def _with(of_xla: tuple[tuple[str, object], ...], *args, **options):
    compile_options = _compile_options(*args, **options)
    compile_options.env_option_overrides = [*compile_options.env_option_overrides, *of_xla]
    return compile_options


def _flag(of_xla: tuple[str, object]) -> str:
    name, value = of_xla
    return f"--{name}={str(value).lower()}"


def _set(options: dict[str, object]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()
