# SPDX-License-Identifier: Apache-2.0
"""Sliding-window multi-query attention with a ring of past keys and values."""

from kernels.local_attention.api import local_attention
from kernels.local_attention.ring import write_one, write_ring

__all__ = ["local_attention", "write_one", "write_ring"]
