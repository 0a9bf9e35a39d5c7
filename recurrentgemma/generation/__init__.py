# SPDX-License-Identifier: Apache-2.0
"""Tokens one after the other: sampling, prefill and decode, and LanguageModel on top of them."""
