# SPDX-License-Identifier: Apache-2.0
"""What a run records of itself: progress, metrics, where its time goes, traces."""
