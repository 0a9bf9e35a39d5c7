# SPDX-License-Identifier: Apache-2.0
"""How the programs of some tests are compiled."""

import contextlib
from collections.abc import Iterator

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

QUICKLY = "jax_disable_most_optimizations"  # LLVM does without its slow passes


@contextlib.contextmanager
def compiling(**options: object) -> Iterator[None]:
    """With these of JAX's options, here and in processes that are started here. What was compiled
    before, or is compiled meanwhile, is used on that side only."""
    before = {name: jax.config.values[name] for name in options}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name.upper(), str(value))
        _set(options)
        try:
            yield
        finally:
            _set(before)


def _set(options: dict[str, object]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.clear_caches()
