# SPDX-License-Identifier: Apache-2.0
"""h_t = a_t h_{t-1} + x_t."""

from kernels.linear_scan.api import linear_scan

__all__ = ["linear_scan"]
