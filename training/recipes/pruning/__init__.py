# SPDX-License-Identifier: Apache-2.0
"""Units that die while a network trains, and are removed on the fly (DemP, 2403.07688)."""
