# SPDX-License-Identifier: Apache-2.0
"""Text that goes on after other text, as a model that generates it sees it.

Generation begins after the last token of a prompt, so a token ends there. What follows has the ids
that it has in the whole text, but from that boundary on. Encoded alone, it would begin with the
space that some tokenizers put before a text. Encoded with the prompt, its first characters might be
merged with the prompt's last ones.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

# What a text is put after where it would be merged with what is really there. Of different kinds,
# because a tokenizer may merge some of them with some texts.
_ANCHORS = ("\n", ".", "0", "a")


def encode_continuation(tokenizer: "Tokenizer", text: str, before: str | None) -> list[int]:
    """The ids of `text`, which stands after `before`, where a token ends.

    `encode(before) + encode_continuation(text, before)` are the ids of the whole text wherever
    these begin with those of `before`. Where they do not, because a token goes across the boundary,
    `text` is encoded after a character that it is not merged with. None: after such a character,
    whatever stands before it.
    """
    if not text:
        return []
    contexts = _ANCHORS if before is None else (before, *_ANCHORS)
    for context in contexts:
        known = tokenizer.encode(context, bos=False)
        whole = tokenizer.encode(context + text, bos=False)
        if (known or context is before) and whole[: len(known)] == known:
            return whole[len(known) :]
    return tokenizer.encode(text, bos=False)  # it is merged with anything: it can only stand alone
