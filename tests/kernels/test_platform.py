# SPDX-License-Identifier: Apache-2.0
"""Which platform a program is traced for."""

import jax
import jax.numpy as jnp
import pytest

from kernels import platform
from recurrentgemma import losses


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("cpu", "cpu"), ("cpu:0", "cpu"), ("gpu", "gpu"), ("cuda", "gpu"), ("cuda:1", "gpu")),
        *(("rocm:0", "gpu"), ("tpu:3", "tpu")),
    ],
)
def test_the_platform_of_a_device_given_by_name(name: str, expected: str):
    """Which names JAX takes depends on its version: 0.10 takes no number."""
    assert platform.of_device(name) == expected
    assert expected in losses.CHUNK_ELEMENTS  # which is where a name of JAX's was a KeyError


def test_the_default_device_may_be_a_name_or_a_device():
    for device in ("cpu", jax.devices("cpu")[1]):
        with jax.default_device(device):
            assert platform.current() == "cpu"
            assert jax.jit(lambda x: x + 1)(jnp.zeros(())) == 1
    with jax.default_device("gpu"):  # type: ignore[arg-type]
        assert platform.current() == "gpu"
        assert losses.chunk_tokens(10**6, 256_000) >= 1


def test_what_is_lowered_for_another_platform():
    with platform.lowering_for("tpu"):
        assert platform.current() == "tpu"
    assert platform.current() == jax.default_backend()
