# SPDX-License-Identifier: Apache-2.0
"""Sliding-window multi-query attention with a ring of past keys and values."""

from kernels.local_attention.api import local_attention
from kernels.local_attention.ring import write_one, write_ring
from kernels.local_attention.sharded import local_attention_sharded

__all__ = ["local_attention", "local_attention_sharded", "write_one", "write_ring"]
