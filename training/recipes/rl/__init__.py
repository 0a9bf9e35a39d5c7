# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning that recipes share: environments, agents (PPO, DQN, C51, SAC), returns."""
