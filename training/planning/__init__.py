# SPDX-License-Identifier: Apache-2.0
"""`griffin plan`: a step compiled for a TPU slice without one."""
