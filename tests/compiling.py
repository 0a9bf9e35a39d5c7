# SPDX-License-Identifier: Apache-2.0
"""How the programs of some tests are compiled."""

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax._src import compiler, lru_cache
from jax.experimental.compilation_cache import compilation_cache

QUICKLY = "jax_disable_most_optimizations"  # LLVM does without its slow passes
# Goes with it: XLA's older way of emitting CPU kernels, by LLVM alone, takes 0.4 of the time of the
# newer one, which goes through MLIR. jax.config has no such option.
OLDER_EMITTERS = ("xla_cpu_use_fusion_emitters", False)


KEPT_IN = "jax_compilation_cache_dir"


def kept_in(folder: Path) -> dict[str, object]:
    """Options: every program is kept there, and read back where it is compiled again."""
    return {
        KEPT_IN: str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@contextlib.contextmanager
def compiling(*, older_emitters: bool = True, **options: object) -> Iterator[None]:
    """With these of JAX's options, here and in processes that are started here, which keep their
    programs in a folder of their own (by_processes). What was compiled before, or is compiled
    meanwhile, is used on that side only. older_emitters: with QUICKLY."""
    before = {name: jax.config.values[name] for name in options}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            of_processes = by_processes(Path(str(value))) if name == KEPT_IN else value
            patch.setenv(name.upper(), str(of_processes))
        patch.setattr(lru_cache.LRUCache, "put", _put_whole)
        if older_emitters and options.get(QUICKLY):
            patch.setattr(compiler, "get_compile_options", _with_older_emitters)
            name, value = OLDER_EMITTERS
            flags = f"{os.environ.get('XLA_FLAGS', '')} --{name}={str(value).lower()}"
            patch.setenv("XLA_FLAGS", flags.strip())  # of processes: here they have been read
        _set(options)
        try:
            yield
        finally:
            _set(before)


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


def _with_older_emitters(*args, **options):
    compile_options = _compile_options(*args, **options)
    compile_options.env_option_overrides = [
        *compile_options.env_option_overrides,
        OLDER_EMITTERS,
    ]
    return compile_options


def _set(options: dict[str, object]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()
