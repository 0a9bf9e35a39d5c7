# SPDX-License-Identifier: Apache-2.0
"""OpenAI's requests and answers over HTTP."""
