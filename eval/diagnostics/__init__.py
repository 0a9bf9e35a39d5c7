# SPDX-License-Identifier: Apache-2.0
"""What a network has become: ranks and units, curvature, and whether it can still learn."""
