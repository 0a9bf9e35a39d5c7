# SPDX-License-Identifier: Apache-2.0
"""Units of a Griffin's MLPs that die while it trains, and their removal from a checkpoint."""
