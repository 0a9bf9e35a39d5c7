# SPDX-License-Identifier: Apache-2.0
"""A Hawk or a Griffin as an agent's memory, beside an LSTM, a GRU and none."""
