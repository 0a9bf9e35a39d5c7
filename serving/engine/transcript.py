# SPDX-License-Identifier: Apache-2.0
"""One sequence's tokens on their way to text: whole characters, stop strings, where tokens begin.

A token is released with the first character that it gave, so that what a client has seen of the
tokens always belongs to what it has seen of the text.
"""

from collections.abc import Sequence

import numpy as np

from recurrentgemma.text.streaming import StopScanner, StreamDecoder
from recurrentgemma.text.tokenizer import Tokenizer
from serving.engine.request import TokenScore


class Transcript:
    """What follows `prompt`. Without a tokenizer the text stays empty and every token is released.

    token_by_token: keep `TokenScore.offset`, at the price of decoding after each token. Stop
    strings need it too, for the count of tokens.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        prompt: Sequence[int] | np.ndarray,
        *,
        stop: Sequence[str] = (),
        token_by_token: bool = False,
    ):
        self.stopped = False
        self._decoder = None if tokenizer is None else StreamDecoder(tokenizer, prompt)  # type: ignore[arg-type]
        self._scanner = StopScanner(stop)
        self._token_by_token = token_by_token or bool(stop)
        self._decoded = self._released = 0  # characters
        self._held: list[TokenScore] = []

    @property
    def length(self) -> int:
        """Characters released so far."""
        return self._released

    def push(self, tokens: Sequence[TokenScore]) -> tuple[int, str, list[TokenScore]]:
        """How many of `tokens` were taken (fewer than all when a stop string was complete), and
        the text and tokens released."""
        size = 1 if self._token_by_token else max(1, len(tokens))
        taken, text = 0, ""
        for start in range(0, len(tokens), size):
            if self.stopped:
                break
            group = tokens[start : start + size]
            if self._token_by_token:
                group = [group[0]._replace(offset=self._decoded)]
            self._held += group
            taken += len(group)
            text += self._scan("" if self._decoder is None else self._decode(group))
        return taken, text, self._release(text, everything=not self._token_by_token)

    def finish(self) -> tuple[str, list[TokenScore]]:
        """What was held back. After a stop string: nothing, and the tokens of it are dropped."""
        if self.stopped:
            return "", []
        text = "" if self._decoder is None else self._decoder.finish()
        text = self._scan(text) + self._scanner.finish()
        return text, self._release(text, everything=not self.stopped)

    def _decode(self, group: Sequence[TokenScore]) -> str:
        assert self._decoder is not None
        text = self._decoder.push([token.token_id for token in group])
        self._decoded += len(text)
        return text

    def _scan(self, text: str) -> str:
        text = self._scanner.push(text)
        self.stopped = self._scanner.stopped
        return text

    def _release(self, text: str, *, everything: bool) -> list[TokenScore]:
        self._released += len(text)
        count = len(self._held)
        if not everything:
            count = sum(token.offset < self._released for token in self._held)
        released, self._held = self._held[:count], self._held[count:]
        return released
