# SPDX-License-Identifier: Apache-2.0
"""What a prompt may be: a text or token ids, one or several."""

from collections.abc import Sequence

import numpy as np

from recurrentgemma.errors import UserError

Prompt = str | Sequence[int]
Prompts = Sequence[Prompt]


def as_prompts(prompt: Prompt | Prompts) -> tuple[Prompts, bool]:
    """(a list of prompts, whether it was a single one)."""
    if not isinstance(prompt, Sequence | np.ndarray):
        raise UserError(f"a prompt is {prompt!r}: expected text, token ids, or a list of such")
    if isinstance(prompt, str) or not len(prompt) or isinstance(prompt[0], int | np.integer):
        return [prompt], True  # type: ignore[list-item]
    return prompt, False  # type: ignore[return-value]


def as_ids(prompt: Sequence[int] | np.ndarray) -> list[int]:
    """Token ids as whole numbers, from a list or an array of such."""
    try:
        ids = np.asarray(prompt)
    except ValueError:
        raise UserError(f"a prompt is {prompt!r}: expected text or a list of token ids") from None
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise UserError(f"a prompt is {prompt!r}: expected text or a list of token ids")
    return ids.tolist()
