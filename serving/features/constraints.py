# SPDX-License-Identifier: Apache-2.0
"""Answers that keep to a JSON schema, a regular expression, a choice of texts or a grammar.

llguidance says, for the tokens of an answer so far, which may come next; the engine draws from
those alone. Where the text may end, each token that ends an answer may come, and once it must end,
nothing else. Where llguidance gives up on the way, such as for a grammar that becomes too large,
that answer alone is given up, with an error: it would not have its form.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal

import llguidance
import llguidance.numpy
import numpy as np

from recurrentgemma.errors import UserError
from recurrentgemma.text.tokenizer import Tokenizer

Kind = Literal["json", "json_object", "regex", "choice", "grammar"]

# A mask is computed between two steps, which all answers wait for: large schemas are taken (the
# rows' items), automata that take long to build are not (the lexer's fuel).
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=20_000,
    step_max_items=200_000,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    max_lexer_states=50_000,
    verbose_errors=False,  # which would hold the answer's text, and the request's
)
# Between two parts of JSON. Without an end a model that likes to write space would write nothing
# else until max_tokens.
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,32}"


class ConstraintFailed(UserError):
    """An answer cannot be held to its form any further."""


class Constraints:
    """For a tokenizer. Making one takes a second with 256,000 tokens; a server makes one.

    Raises UserError: the tokenizer has no token that ends a text, or does not tell what its tokens
    add to one.
    """

    def __init__(self, tokenizer: Tokenizer):
        if not tokenizer.stop_ids:
            raise UserError(
                "this tokenizer has no token that ends a text, so that an answer which must end "
                "there cannot: it takes no grammars and no schemas"
            )
        self._stop_ids = tokenizer.stop_ids
        self._words = -(-tokenizer.vocab_size // 32)
        self._tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(tokenizer)))

    def compiled(self, kind: Kind, given: Any, *, field: str) -> Callable[[], "Constraint"]:
        """What begins a constraint, as GenerationRequest.constraint.

        given: a JSON schema; nothing for json_object; a regular expression; texts; a grammar in
          llguidance's dialect of Lark, or in GBNF.
        Raises UserError, which names the field: it is none, or asks for what is not supported.
        """
        try:
            grammar = _grammar(kind, given)
        except (ValueError, TypeError) as error:
            raise _invalid(kind, str(error), field) from None
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise _invalid(kind, reason(matcher), field)
        try:
            Constraint(matcher.deep_copy(), self._words, self._stop_ids, field)(())
        except ConstraintFailed as error:
            raise _invalid(kind, f"no answer begins so ({error})", field) from None
        return lambda: Constraint(matcher.deep_copy(), self._words, self._stop_ids, field)


class Constraint:
    """Of one answer: see request.AllowedTokens. M 32-bit words."""

    def __init__(
        self, matcher: llguidance.LLMatcher, words: int, stop_ids: Sequence[int], field: str
    ):
        self._matcher, self._stop_ids, self._field = matcher, stop_ids, field
        self._read = 0
        self._bits_1M = np.zeros((1, words), np.int32)

    def __call__(self, tokens: Sequence[int]) -> np.ndarray:
        """Raises ConstraintFailed."""
        for token in tokens[self._read :]:
            self._matcher.consume_token(token)
        self._read = len(tokens)
        llguidance.numpy.fill_next_token_bitmask(self._matcher, self._bits_1M, 0)
        bits_M = self._bits_1M[0].view(np.uint32).copy()
        if self._matcher.is_error():
            raise ConstraintFailed(
                f"the answer cannot be held to its form after {len(tokens)} tokens: "
                f"{reason(self._matcher)}; ask for a simpler one",
                field=self._field,
            )
        if self._matcher.is_accepting():
            for token in self._stop_ids:
                bits_M[token // 32] |= np.uint32(1 << token % 32)
        return bits_M


class _Tokens:
    """A tokenizer as llguidance wants it: its end of text is the first token that ends answers."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.eos_token_id, self.bos_token_id = tokenizer.stop_ids[0], tokenizer.bos_id
        texts = tokenizer.token_bytes()
        self.special_token_ids = [token for token, text in enumerate(texts) if text is None]
        # Bytes of its own for each control token, in the form that llguidance tells them by.
        self.tokens = [
            b"\xff<%d>" % token if text is None else text for token, text in enumerate(texts)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        return self._tokenizer.encode(text, bos=False)


def _grammar(kind: Kind, given: Any) -> str:
    matcher = llguidance.LLMatcher
    if kind == "json":
        return matcher.grammar_from_json_schema(json.dumps(given), defaults=_json_defaults(given))
    if kind == "json_object":
        return matcher.grammar_from_json_schema('{"type": "object"}', defaults=_JSON)
    if kind == "regex":
        return matcher.grammar_from_regex(given)
    if kind == "choice":
        texts = " | ".join(json.dumps(text, ensure_ascii=False) for text in given)
        return matcher.grammar_from_lark(f"start: {texts}")
    return llguidance.grammar_from("grammar", given)


_JSON: Any = {"whitespace_pattern": WHITESPACE}


def _json_defaults(schema: Any) -> Any:
    """The pattern would write spaces, too, where a schema's own options say that there are none."""
    own = schema.get("x-guidance") if isinstance(schema, dict) else None
    return {} if isinstance(own, dict) and own.get("whitespace_flexible") is False else _JSON


def reason(matcher: llguidance.LLMatcher) -> str:
    """Why it is in error, without what it has read."""
    return matcher.get_error().split("<non-verbose/>")[0].split("<state>")[0].strip()


def _invalid(kind: Kind, reason: str, field: str) -> UserError:
    names = {"json": "JSON schema", "regex": "regular expression", "grammar": "grammar"}
    message = f"the {names.get(kind, kind)} cannot be kept to: {reason.strip()}"
    return UserError(message, field=field)
