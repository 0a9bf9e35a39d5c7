# SPDX-License-Identifier: Apache-2.0
"""Many sequences in one batch of states; no HTTP."""
