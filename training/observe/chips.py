# SPDX-License-Identifier: Apache-2.0
"""What accelerators can do at most, as their makers publish it."""

from typing import Any, NamedTuple


class Chip(NamedTuple):
    """Published peaks of one TPU chip: bfloat16 FLOP/s, HBM bytes that a program may use and
    bytes/s, interconnect bytes/s of one link in one direction, the extent at which a dimension of a
    slice is a ring, and the extents of the largest slice."""

    flops: float
    hbm: float
    bandwidth: float
    link: float
    ring: int
    pod: tuple[int, ...]


GIB = 2**30
CHIPS = {
    "v5e": Chip(197e12, 15.75 * GIB, 819e9, 45e9, 16, (16, 16)),
    "v5p": Chip(459e12, 95.74 * GIB, 2765e9, 90e9, 4, (16, 20, 28)),
    "v6e": Chip(918e12, 31.25 * GIB, 1640e9, 90e9, 16, (16, 16)),
}
PEAK_FLOPS = {  # dense bfloat16, by a part of jax.Device.device_kind
    "TPU v4": 275e12,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6 lite": CHIPS["v6e"].flops,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
}


def peak_flops(device: Any) -> float | None:
    """bfloat16 FLOP/s of a device at most; None where it is not known, as of a CPU."""
    kind = device.device_kind
    return next((flops for name, flops in PEAK_FLOPS.items() if name in kind), None)
