# SPDX-License-Identifier: Apache-2.0
"""h_t = a_t h_{t-1} + x_t."""

from kernels.linear_scan.api import linear_scan
from kernels.linear_scan.sharded import linear_scan_sharded

__all__ = ["linear_scan", "linear_scan_sharded"]
