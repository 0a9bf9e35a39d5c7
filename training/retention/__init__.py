# SPDX-License-Identifier: Apache-2.0
"""`--retain`: training that keeps what a checkpoint could do before."""
