# SPDX-License-Identifier: Apache-2.0
"""Image-text pretraining that contrasts words with the patches they name (SPARC, 2401.09865)."""
