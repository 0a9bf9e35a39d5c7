# SPDX-License-Identifier: Apache-2.0
"""PPO's features collapse and take the trust region along; holding them still (PFO) helps."""
