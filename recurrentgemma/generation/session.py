# SPDX-License-Identifier: Apache-2.0
"""Session: a state in hand. It reads, answers and scores, and reads nothing twice.

    session = lm.session()
    session.read(book)                          # once, however long it is
    session.fork().generate("\\n\\nSummary:")     # as often as you like
    session.save("book.session")                # lm.session("book.session") goes on from here

A session holds what it was given to read and what its answers were: `lm.generate` of all of that
together would go on as `session.generate` does.
"""

import datetime
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from recurrentgemma.counts import state_bytes
from recurrentgemma.errors import UserError
from recurrentgemma.generation.completion import Completion, run
from recurrentgemma.generation.decode import DecodeState
from recurrentgemma.generation.reading import (
    LOOKBACK_TOKENS,
    START,
    Point,
    answered,
    require_tokens,
)
from recurrentgemma.generation.sampling import Sampling, SamplingOptions, takes_sampling_options
from recurrentgemma.state import State
from recurrentgemma.text.chat import ChatFormat, Message, chat_format, check_text
from recurrentgemma.text.continuation import encode_continuation
from recurrentgemma.text.pieces import CUT_MARGIN
from recurrentgemma.text.streaming import TextStream, tokens_within

if TYPE_CHECKING:
    from recurrentgemma.generation.lm import LanguageModel
    from recurrentgemma.generation.prompts import Prompt


class Session:
    """What a model remembers of one text, which goes on; `lm.session()` gives one.

    Its size does not grow with the text. A call that fails or is interrupted (Ctrl-C) leaves it
    where it was before the call; a stream that is left, after the text that it gave.
    """

    def __init__(self, lm: "LanguageModel", point: Point = START):
        self.lm = lm
        self._reader = lm._reader
        self._point = point
        self._ready: Point | None = None  # `_point`, as if its text ended here
        self._moves = 0

    def __repr__(self) -> str:
        size = f"a state of {state_bytes(self.lm.config):,} bytes"
        return f"Session({self.tokens_seen:,} tokens seen; {size}; {self.lm!r})"

    @property
    def tokens_seen(self) -> int:
        """Tokens read and generated, if the text that was read ends here."""
        return self._point.count + len(self._reader.held_ids(self._point))

    @property
    def state(self) -> State:
        """After all tokens seen: a copy, of a batch of one. Reads what was not read yet."""
        if not self.tokens_seen:
            return self._reader.generator.fresh()
        self._ready = self._reader.with_after(self._look())
        state = self._reader.generator.copy(self._ready.after)
        assert state is not None
        return state

    @property
    def messages(self) -> list[dict[str, str]]:
        """Of the chat so far."""
        return [{"role": role, "content": content} for role, content in self._point.messages]

    def read(self, text_or_ids: "Prompt") -> None:
        """Go on with a text, or with token ids.

        A text in pieces is read as the whole text: its last word waits, as text, for the rest of
        it, and ends where an answer begins or token ids follow. The first text begins with bos,
        where the tokenizer has one; token ids are taken as they are. Nothing is read before 1,024
        tokens have come together or somebody wants the state; `fork`, `score` and `state` do.

        Raises ValueError as `lm.generate`; the empty text is nothing to read, and no error.
        """
        self._move(self._with(text_or_ids))

    @takes_sampling_options
    def generate(
        self,
        prompt: "Prompt" = "",
        *,
        sampling: Sampling | None = None,
        **options: Unpack[SamplingOptions],
    ) -> str:
        """Read `prompt`, if there is one, and go on: `lm.generate` behind all that was read.

        The session then stands after the text returned. What a stop string has cut off is not in
        it, nor is the token that ended the text. Options and errors are those of `lm.generate`.
        """
        self.lm._text_tokenizer("generate text", "use session.complete with token ids")
        return self.complete(prompt, sampling=sampling, **options).text

    @takes_sampling_options
    def complete(
        self,
        prompt: "Prompt" = "",
        *,
        logprobs: int | None = None,
        sampling: Sampling | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Completion:
        """As `generate`, with tokens, log-probabilities and why the answer ended."""
        completion = Completion()
        for _ in self._answer(self._with(prompt), completion, logprobs, False, sampling, options):
            pass
        return completion

    @takes_sampling_options
    def stream(
        self,
        prompt: "Prompt" = "",
        *,
        sampling: Sampling | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]:
        """As `generate`: its text in pieces, as soon as each is certain.

        With each piece the session moves after it, so a stream may be left at any time. Raises
        ValueError where the session has been used otherwise before the stream was over.
        """
        self.lm._text_tokenizer("stream text", "use session.complete with token ids")
        return self._answer(self._with(prompt), Completion(), None, True, sampling, options)

    @takes_sampling_options
    def chat(
        self,
        message: str,
        *,
        sampling: Sampling | None = None,
        **options: Unpack[SamplingOptions],
    ) -> str:
        """The model's turn after a user's message. Earlier turns are not read again.

        The tokens are those of `lm.chat` with all messages; of an answer, those that the model
        generated. What was read before the first message stays in front of the chat.
        """
        completion = Completion()
        for _ in self._turn(message, completion, False, sampling, options):
            pass
        return completion.text

    @takes_sampling_options
    def stream_chat(
        self,
        message: str,
        *,
        sampling: Sampling | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]:
        """As `chat`: the answer in pieces, as soon as each is certain. A stream that is left ends
        the answer there; what it gave is the assistant's message."""
        return self._turn(message, Completion(), True, sampling, options)

    def score(self, text_or_ids: "Prompt") -> np.ndarray:
        """Log-probability in nats of each token of what may follow, float32; nothing is moved.

        Behind an empty session this is `lm.score`, whose first token has no number.
        """
        if not self.tokens_seen:
            return self.lm.score(text_or_ids)
        if isinstance(text_or_ids, str):
            tokenizer = self.lm._text_tokenizer("read text", "pass token ids")
            check_text(text_or_ids)
            held = self._point.held
            before = ((held.before or "") + held.text)[-CUT_MARGIN:] if held.text else None
            ids = encode_continuation(tokenizer, text_or_ids, before)
        else:
            ids = self.lm._ids(text_or_ids)
        if not ids:
            return np.zeros(0, np.float32)
        self.lm._check_context(self.tokens_seen + len(ids) - 1)
        ready = self._look()
        state = self._reader.generator.copy(ready.state)
        return self.lm._score_tokens([ready.unread[0], *ids], state)

    def fork(self) -> "Session":
        """Another session that stands where this one does. They share arrays, and no future."""
        if self._point.count or self._point.held.text:
            self._point = self._reader.settled(self._point)
        forked = Session(self.lm, self._point)
        forked._ready = self._ready
        return forked

    def save(self, path: str | Path) -> None:
        """Write the session to one file, whole or not at all; `lm.session(path)` reads it.

        The file is as large as the state. Raises ValueError where something else than a saved
        session is at `path`.
        """
        from checkpoints import session_file

        if self._point.after is not None:  # one state is enough, if the last token is read again
            self._point = self._reader.all_but_last(self._point)._replace(after=None)
        session_file.write(Path(path), self._point, self.lm)

    def _turn(
        self,
        message: str,
        completion: Completion,
        streamed: bool,
        sampling: Sampling | None,
        options: SamplingOptions,
    ) -> Iterator[str]:
        """`_answer` to a user's message."""
        if not isinstance(message, str):
            raise UserError(f"the message is {message!r}: expected a string, what the user says")
        tokenizer = self.lm._text_tokenizer("chat", "use session.complete with token ids")
        bos_id = tokenizer.bos_id if self.tokens_seen else None
        turn = [{"role": "user", "content": message}]
        ids = turn_ids(chat_format(tokenizer), self.messages, turn, bos_id=bos_id)
        messages = (*self._point.messages, ("user", message))
        start = self._reader.add_ids(self._point, ids)._replace(messages=messages)
        return self._answer(start, completion, None, streamed, sampling, options)

    def _with(self, text_or_ids: "Prompt") -> Point:
        """The point after a text or token ids."""
        if not isinstance(text_or_ids, str):
            ids = self.lm._ids(text_or_ids)
            if ids:
                self.lm._check_context(self.tokens_seen + len(ids))
            return self._reader.add_ids(self._point, ids)
        if not text_or_ids:
            return self._point
        self.lm._text_tokenizer("read text", "pass token ids")
        check_text(text_or_ids)
        point = self._reader.add_text(self._point, text_or_ids)
        if "global_attention" in self.lm.config.block_types:
            self.lm._check_context(point.count + len(self._reader.held_ids(point)))
        return point

    def _look(self) -> Point:
        """Where the session stands if its text ends here, and ready; what is certain stays read."""
        if self._ready is None:
            self._point = self._reader.settled(self._point)
            self._ready = self._reader.ready(self._point)
        return self._ready

    def _move(self, point: Point) -> None:
        """Both at once for whoever interrupts: nothing is ready of a point before."""
        self._moves += 1
        self._ready = None
        self._point = point

    def _answer(
        self,
        start: Point,
        completion: Completion,
        logprobs: int | None,
        streamed: bool,
        sampling: Sampling | None,
        options: SamplingOptions,
    ) -> Iterator[str]:
        """Check everything, then the iterator that fills `completion` and moves the session."""
        (row,) = self.lm._samplings(1, sampling, options)
        decode_options = self.lm._decode_options([row], logprobs, prompts=[()])
        if start is self._point and self._ready is not None:
            start = self._ready
        start = self._reader.ended(start)
        require_tokens(start)
        self.lm._check_context(start.count + row.max_tokens - 1)
        text = None
        if self.lm.tokenizer is not None:
            text = TextStream(self.lm.tokenizer, start.context, row.stop)
        run_from = partial(
            run,
            self._reader.generator,
            options=decode_options,
            texts=[text],
            completions=[completion],
            top=logprobs,
            streamed=streamed,
        )
        return self._follow(start, run_from, text, completion, streamed, self._moves)

    def _follow(
        self,
        start: Point,
        run_from: Callable[..., Generator[list[str], None, DecodeState]],
        text: TextStream | None,
        completion: Completion,
        streamed: bool,
        moves: int,
    ) -> Iterator[str]:
        """The answer's text in pieces; the session moves with each of a stream, else in the end."""
        self._require(moves)
        start = self._reader.ready(start)
        assert start.state is not None
        begin = partial(self._reader.generator.start_after, start.state, start.unread[0])
        blocks, answer = run_from(begin), _Answer(self.lm, start, text, completion)
        while True:
            try:
                (piece,) = next(blocks)
            except StopIteration as end:
                self._move(answer.whole(end.value.state))
                return
            self._require(moves)
            if streamed and piece:
                self._move(answer.so_far())
                moves = self._moves
                yield piece
                self._require(moves)

    def _require(self, moves: int) -> None:
        if self._moves != moves:
            raise UserError(
                "the session has gone on otherwise since this stream was asked for, and a stream "
                "cannot go on behind that: take all of a stream first, or give it a session of its "
                "own, session.fork().stream(...)"
            )


def turn_ids(
    chats: ChatFormat, before: Sequence[Message], added: Sequence[Message], *, bos_id: int | None
) -> list[int]:
    """The tokens of messages that come after those that a session holds.

    bos_id: with which they do not begin, where something else stands before the first message.
    Raises UserError: the chat format does not simply go on from turn to turn, or refuses them.
    """
    now = datetime.datetime.now()
    ids = chats.encode([*before, *added], now=now)
    if before:
        known = _turns_that_are_over(chats, before, now)
        if not known or ids[: len(known)] != known:
            raise UserError(
                "this chat format writes the turns that are over in another way when one more "
                "follows, so that they would have to be read again: pass all messages to "
                "lm.chat instead"
            )
        return ids[len(known) - (known[-1] in chats.stop_ids) :]  # no answer has what ended it
    return ids[1:] if bos_id is not None and ids[0] == bos_id else ids


def _turns_that_are_over(
    chats: ChatFormat, messages: Sequence[Message], now: datetime.datetime
) -> list[int]:
    """Their tokens; none where the format does not go on from one turn to the next."""
    try:
        return chats.encode_answers(messages, now=now)[0]
    except UserError:
        return []


class _Answer:
    """What of an answer the session holds: the tokens that are whole in the text given so far."""

    def __init__(
        self, lm: "LanguageModel", start: Point, text: TextStream | None, completion: Completion
    ):
        self._lm, self._start, self._text, self._completion = lm, start, text, completion
        self._tokens = self._characters = 0  # that are known to be whole

    def so_far(self) -> Point:
        """The point after the text so far, which will be read when something follows."""
        tokens, text, remainder = self._completion.tokens, self._completion.text, ""
        if self._text is not None and self._text.holds:
            assert self._lm.tokenizer is not None
            context = (*self._start.context, *tokens[: self._tokens])[-LOOKBACK_TOKENS:]
            more, remainder = tokens_within(
                self._lm.tokenizer, context, tokens[self._tokens :], text[self._characters :]
            )
            self._tokens += more
        else:
            self._tokens = len(tokens)
        self._characters = len(text) - len(remainder)
        return self._after(tokens[: self._tokens], remainder)

    def whole(self, state: State) -> Point:
        """The point after the answer. `state`: of all that was decoded but for the last token."""
        if self._text is not None and self._text.stopped:
            return self.so_far()
        point = self._after(self._completion.tokens)
        if self._completion.finish_reason == "stop":  # the last token ended it
            return point._replace(after=state)
        return point._replace(state=state, unread=point.unread[-1:])

    def _after(self, tokens: Sequence[int], remainder: str = "") -> Point:
        point = answered(self._start, tokens, remainder)
        if point.messages and point.messages[-1][0] == "user":
            answer = ("assistant", self._completion.text)
            point = point._replace(messages=(*point.messages, answer))
        return point
