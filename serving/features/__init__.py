# SPDX-License-Identifier: Apache-2.0
"""What a state of fixed size makes easy for an engine, each in a file of its own."""
