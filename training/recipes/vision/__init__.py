# SPDX-License-Identifier: Apache-2.0
"""What recipes that learn from images share: data (images.py) and networks (network.py)."""
