# SPDX-License-Identifier: Apache-2.0
"""Measurements of a server that runs, over HTTP."""
