# SPDX-License-Identifier: Apache-2.0
"""Published peaks, found by what a device calls itself."""

from types import SimpleNamespace

from training.observe.chips import peak_flops


def test_peaks_are_those_of_the_chip_and_not_of_its_cousin():
    peaks = {
        kind: peak_flops(SimpleNamespace(device_kind=kind))
        for kind in (
            "TPU v5 lite",
            "TPU v5",
            "TPU v5p",
            "NVIDIA H100 80GB HBM3",
            "NVIDIA H100 PCIe",
        )
    }
    assert list(peaks.values()) == [197e12, 459e12, 459e12, 989e12, 756e12]
    assert peak_flops(SimpleNamespace(device_kind="abacus")) is None
