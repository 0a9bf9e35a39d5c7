# SPDX-License-Identifier: Apache-2.0
"""Documents to batches. Imports nothing else of training: evaluation reads through it, too."""
