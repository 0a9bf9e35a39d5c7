# SPDX-License-Identifier: Apache-2.0
"""SPARC: image-text pretraining that contrasts words with the patches they name (2401.09865)."""
