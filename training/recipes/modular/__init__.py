# SPDX-License-Identifier: Apache-2.0
"""Modular: when do hypernetworks generalise to new combinations of modules? (2312.15001)"""
