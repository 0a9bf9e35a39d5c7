# SPDX-License-Identifier: Apache-2.0
"""griffin-lm's offline batches: a file of requests in, a file of answers out, no sockets."""
