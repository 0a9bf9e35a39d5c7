# SPDX-License-Identifier: Apache-2.0
"""Arrays in, arrays out: the operations that the models of griffin-lm spend their time in.

    from kernels.linear_scan import linear_scan          h_t = a_t h_{t-1} + x_t
    from kernels.rg_lru import rg_lru                    the same, with gates, resets and padding
    from kernels.local_attention import local_attention  W + 1 keys, documents, a ring of the past
    from kernels.conv import causal_conv                 four taps, within documents

Each picks its implementation for the platform (platform.py) unless one is named, and takes `axis=`
where a sequence is cut over devices (sequence.py). The small ops (dot, gating, lookup, norm) have
one implementation; measure/ times all of them. docs/kernels.md has the numbers.
"""
