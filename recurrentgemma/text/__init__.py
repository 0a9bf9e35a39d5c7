# SPDX-License-Identifier: Apache-2.0
"""Text to token ids and back: tokenizers, the chat format, whole characters out of a stream."""
