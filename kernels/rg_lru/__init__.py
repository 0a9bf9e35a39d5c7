# SPDX-License-Identifier: Apache-2.0
"""The real-gated linear recurrent unit, gates included."""

from kernels.rg_lru.api import rg_lru

__all__ = ["rg_lru"]
