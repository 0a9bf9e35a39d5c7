# SPDX-License-Identifier: Apache-2.0
"""Which implementation of an op runs: the one that is named, or the best for the platform.

The platform is the one that programs are traced for: JAX's default, or what `lowering_for` says.
Only the branch that is taken is traced, so that a CPU spends no time on kernels for a TPU.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

GPUS = ("cuda", "rocm", "oneapi")  # JAX's other names of the platform `gpu`
_platform = jax.make_user_context(None)  # part of the key under which JAX keeps what it traced


@contextlib.contextmanager
def lowering_for(platform: str) -> Iterator[None]:
    """What is traced inside is for this platform (`cpu`, `gpu` or `tpu`), whatever this machine
    has: for compiling ahead of time."""
    with _platform(platform):
        yield


def current() -> str:
    """The platform that programs are traced for."""
    if _platform.value is not None:
        return _platform.value
    device = jax.config.values["jax_default_device"]
    if device is None:
        return jax.default_backend()
    return of_device(device)


def of_device(device: Any) -> str:
    """The platform (`cpu`, `gpu` or `tpu`) of a device, or of its name: `gpu` of `cuda:0`."""
    name = device.split(":")[0] if isinstance(device, str) else device.platform
    return "gpu" if name in GPUS else name


def check(op: str, name: str | None, implementations: Mapping[str, Any]) -> None:
    """Raises ValueError if there is no implementation of this name."""
    if name is not None and name not in implementations:
        raise ValueError(
            f"{op}: implementation {name!r} is unknown; expected one of "
            + ", ".join(implementations)
        )


def check_dtypes(op: str, kind: Any, **arrays: jax.Array | None) -> None:
    """Raises ValueError if an array that is there has no dtype of this kind, such as
    jnp.floating."""
    for name, x in arrays.items():
        if x is None:
            continue
        if not isinstance(x, jax.Array | np.ndarray):
            raise ValueError(f"{op}: {name} is a {type(x).__name__}; expected an array")
        if not jnp.issubdtype(x.dtype, kind):
            raise ValueError(f"{op}: {name} is {x.dtype}; expected {kind.__name__.rstrip('_')}")


def run(
    name: str | None,
    implementations: Mapping[str, Any],
    best: Mapping[str, str],
    part: Callable[[Any], Callable],
    *args,
):
    """part(implementation)(*args) of the implementation of this name. None: of best[platform], or
    of `xla` where best names none."""
    return part(implementations[name or best.get(current(), "xla")])(*args)
