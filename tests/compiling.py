# SPDX-License-Identifier: Apache-2.0
"""How the programs of some tests are compiled."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

QUICKLY = "jax_disable_most_optimizations"  # LLVM does without its slow passes
# Goes with it: XLA's older way of emitting CPU kernels, by LLVM alone, takes 0.4 of the time of the
# newer one, which goes through MLIR. jax.config has no such option.
OLDER_EMITTERS = ("xla_cpu_use_fusion_emitters", False)


def kept_in(folder: Path) -> dict[str, object]:
    """Options: every program is kept there, and read back where it is compiled again."""
    return {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }


@contextlib.contextmanager
def compiling(*, older_emitters: bool = True, **options: object) -> Iterator[None]:
    """With these of JAX's options, here and in processes that are started here. What was compiled
    before, or is compiled meanwhile, is used on that side only. older_emitters: with QUICKLY."""
    before = {name: jax.config.values[name] for name in options}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name.upper(), str(value))
        if older_emitters and options.get(QUICKLY):
            patch.setattr(compiler, "get_compile_options", _with_older_emitters)
        _set(options)
        try:
            yield
        finally:
            _set(before)


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
