# SPDX-License-Identifier: Apache-2.0
"""How fast the kernels are, and what the TPU compiler makes of them."""
