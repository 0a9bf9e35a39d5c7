# SPDX-License-Identifier: Apache-2.0
"""LanguageModel: a model, its parameters and its tokenizer; text in, text or numbers out.

    lm = rg.load("runs/demo")
    lm.generate("O Romeo, ", max_tokens=64, temperature=0.8, top_p=0.9, seed=0)

B batch, T time, V vocabulary.
"""

import copy
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack, overload

import numpy as np
from flax import nnx

from recurrentgemma.chunk import check_inputs
from recurrentgemma.config import GriffinConfig
from recurrentgemma.counts import parameter_count
from recurrentgemma.errors import UserError
from recurrentgemma.generation.completion import Completion, run
from recurrentgemma.generation.decode import DecodeOptions, Generator, decode_options
from recurrentgemma.generation.prompts import Prompt, Prompts, as_ids, as_prompts
from recurrentgemma.generation.reading import Reader
from recurrentgemma.generation.sampling import (
    PerPrompt,
    Sampling,
    SamplingOptions,
    one_a_prompt,
    samplings,
    takes_sampling_options,
)
from recurrentgemma.generation.session import Session
from recurrentgemma.generation.walk import CHUNKS, ChunkProgram, chunk_logits
from recurrentgemma.griffin import Griffin
from recurrentgemma.losses import token_log_probs
from recurrentgemma.params import from_flat_params
from recurrentgemma.state import State
from recurrentgemma.text.chat import AUTO, Message, chat_format, check_text
from recurrentgemma.text.streaming import TextStream
from recurrentgemma.text.tokenizer import Tokenizer, check_vocabulary

_CHUNK_LOGITS = 2**26  # of one chunk of `LanguageModel.logits`, all rows together; two are held


def load(
    path: str | Path, config: GriffinConfig | str | None = None, *, dtype: str | None = None
) -> "LanguageModel":
    """The language model at `path`: our run or checkpoint, DeepMind's or Hugging Face's formats.

    A string that is no path may be a model's name: "google/recurrentgemma-2b-it" on Hugging Face's
    hub, with @REVISION behind it if not its newest, or "kaggle:google/recurrentgemma/flax/2b-it".
    It is downloaded once; docs/checkpoints.md says more.

    config: only for DeepMind's formats in a shape that is no preset's; it must agree otherwise. Its
    name or file will do: a preset's, or one of our config.json.
    dtype: "float32" or "bfloat16", for parameters and activations (default: as they are stored).
    Its layers are unrolled, which generates faster, however they were trained. Raises ValueError
    for a path that is no checkpoint and for one that its config contradicts.
    """
    from checkpoints.load import load_checkpoint, open_checkpoint
    from checkpoints.model_json import config_named
    from checkpoints.shapes import resolve_config

    config = config_named(config) if isinstance(config, str) else config
    checkpoint = open_checkpoint(path)
    config = dataclasses.replace(resolve_config(checkpoint, config, dtype), scan_layers=False)
    model, _, tokenizer = load_checkpoint(checkpoint, config)
    return LanguageModel(model, tokenizer)


class LanguageModel:
    """A model with its tokenizer. What needs text raises ValueError where there is no tokenizer.

    The parameters are those that `model` has now. Raises ValueError for a tokenizer with more ids
    than the model has embeddings.
    """

    def __init__(self, model: Griffin, tokenizer: Tokenizer | None = None):
        self.model = model
        self.config = model.config
        self.tokenizer = tokenizer
        if tokenizer is not None:
            check_vocabulary(tokenizer, self.config.vocab_size)
        graphdef, self._params = nnx.split(model)
        vocab_size = tokenizer.vocab_size if tokenizer else self.config.vocab_size
        self._generator = Generator(graphdef, self._params, self.config, vocab_size)
        self._score = ChunkProgram(token_log_probs, graphdef, self.config)
        self._logits = ChunkProgram(chunk_logits, graphdef, self.config)
        self._reader = Reader(self._generator, tokenizer)
        self._fingerprint: str | None = None  # of the weights, once somebody has asked

    def with_params(self, flat: Mapping[str, Any]) -> "LanguageModel":
        """The same with these parameters, by canonical name; what was compiled serves both."""
        other = copy.copy(self)
        other.model = from_flat_params(self.config, flat)
        _, other._params = nnx.split(other.model)
        other._generator = copy.copy(self._generator)
        other._generator.params = other._params
        other._reader = Reader(other._generator, self.tokenizer)
        other._fingerprint = None
        return other

    def __repr__(self) -> str:
        tokenizer = "no tokenizer"
        if self.tokenizer is not None:
            tokenizer = f"{type(self.tokenizer).__name__} of {self.tokenizer.vocab_size:,} ids"
        layers = f"{self.config.num_layers} layers of {', '.join(self.config.pattern)}"
        count = f"{parameter_count(self.config):,} parameters in {self.config.param_dtype}"
        return f"LanguageModel({layers}; {count}; {tokenizer})"

    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        sampling: PerPrompt[Sampling] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> str: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        *,
        sampling: PerPrompt[Sampling] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[str]: ...

    @takes_sampling_options
    def generate(
        self,
        prompt,
        *,
        sampling: PerPrompt[Sampling] | None = None,
        **options: Unpack[SamplingOptions],
    ):
        """The text that follows a prompt, or each of several; a prompt is text or token ids.

        Options, each one value for all prompts or a list with one for each:
          max_tokens: most tokens to generate (default 128).
          temperature: 0, the default, takes the likeliest token.
          top_k, top_p, min_p: keep the k likeliest tokens; the likeliest that together have the
            probability p; those at least p times as likely as the likeliest.
          stop: a string, or several, before which the text ends.
          seed: a whole number; by default each call differs. A prompt's answer does not depend on
            the other prompts of the call: equal prompts with an equal seed get equal answers.
          logit_bias, three penalties, stop_token_ids, ignore_eos, min_tokens: see `Sampling`.
        sampling: all options as one `Sampling` (or one a prompt) in place of the keywords.

        It also ends at the end of the text or of the model's turn (tokenizer.stop_ids). Raises
        ValueError for an option out of range, an empty prompt, a token outside of the vocabulary,
        a model without a tokenizer (see `complete`), and for more tokens than the context_length
        of a model with global attention.
        """
        self._text_tokenizer("generate text", "use lm.complete with token ids")
        prompts, single = as_prompts(prompt)
        completions = self.complete(prompts, sampling=sampling, **options)
        texts = [completion.text for completion in completions]
        return texts[0] if single else texts

    @takes_sampling_options
    def complete(
        self,
        prompts: Prompts,
        *,
        logprobs: int | None = None,
        sampling: PerPrompt[Sampling] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> list[Completion]:
        """As `generate`, with tokens, log-probabilities and why each answer ended.

        logprobs: report each token's log-probability, and so many likeliest tokens beside it.
        Token ids need no tokenizer; the texts are empty without one. Raises UserError for one text.
        """
        if isinstance(prompts, str):  # each character would be a prompt
            raise UserError("complete takes a list of prompts: pass [text], or use generate")
        return self._complete(prompts, logprobs, sampling, options)

    @takes_sampling_options
    def stream(
        self,
        prompt: Prompt,
        *,
        sampling: PerPrompt[Sampling] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[str]:
        """As `generate` for one prompt: its text in pieces, as soon as each is certain."""
        self._text_tokenizer("stream text", "use lm.complete with token ids")
        prompts, single = as_prompts(prompt)
        if not single:
            raise UserError("stream takes one prompt: call it once for each, or use generate")
        _, blocks = self._begin(prompts, None, True, sampling=sampling, options=options)
        return (piece for (piece,) in blocks if piece)

    @takes_sampling_options
    def chat(
        self,
        messages: str | Sequence[Message],
        *,
        template: str | Path = AUTO,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        sampling: PerPrompt[Sampling] | None = None,
        **options: Unpack[SamplingOptions],
    ) -> str:
        """The model's next turn after messages ({"role": ..., "content": ...}), as `generate`.

        A string is one message of the user's. They are written by the chat template that came with
        the checkpoint, else in Gemma's format.

        template: "auto"; "gemma"; the name of one of the checkpoint's templates, the path of a file
          with a Jinja template, or its text.
        tools, variables: for a template that reads such.
        Raises UserError, too, for messages that the template refuses or would leave out.
        """
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        tokenizer = self._text_tokenizer("chat", "use lm.complete with token ids")
        chats = chat_format(tokenizer, template)
        ids = chats.encode(messages, tools=tools, variables=variables)
        (completion,) = self._complete([ids], None, sampling, options, chats.stop_ids)
        return completion.text

    def session(self, path: str | Path | None = None) -> Session:
        """A state in hand, which reads and answers and reads nothing twice: an empty one, or the
        one that `Session.save` wrote to `path`.

        Raises ValueError for a path where there is none, or a damaged one, or one of a newer
        version, of another model (other sizes, or other weights) or another tokenizer, or one that
        a server's session which learns has computed with its adapter.
        """
        if path is None:
            return Session(self)
        from checkpoints import session_file

        return Session(self, session_file.read(Path(path), self))

    def score(self, text_or_ids: Prompt) -> np.ndarray:
        """Log-probability in nats of each token given those before it, float32.

        A text is scored after bos, so that each of its tokens has a number (but for its first
        where the tokenizer has no bos). Token ids are taken as they are: n ids give n - 1 numbers,
        number i being that of ids[i + 1]. Memory does not grow with the length. Raises ValueError
        as `generate` does.
        """
        ids = self._encode(text_or_ids)
        self._check_context(len(ids) - 1)
        return self._score_tokens(ids)

    def _score_tokens(self, ids: Sequence[int], state: State | None = None) -> np.ndarray:
        """Of each token but the first. `state`: of what stands before them, which this donates."""
        walk = self._score.walk(self._params, [ids[:-1]], targets=[ids[1:]], state=state)
        parts = [logp_BT[0, : chunk.lengths_B[0]] for chunk, logp_BT in walk.results()]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def logits(self, tokens_BT, positions=None) -> np.ndarray:
        """Logits of every token, float32 [B, T, V]; positions as for the model.

        Raises ValueError for a token outside of the vocabulary and for positions that jump.
        """
        try:
            tokens_BT = np.asarray(tokens_BT)
        except ValueError:
            raise UserError("tokens: expected [B, T], and the rows differ in length") from None
        positions_BT = None if positions is None else np.asarray(positions)
        check_inputs(self.config, tokens_BT, None, positions_BT, None)  # type: ignore[arg-type]
        batch = len(tokens_BT)
        sizes = [n for n in CHUNKS if batch * n * self.config.vocab_size <= _CHUNK_LOGITS]
        walk = self._logits.walk(
            self._params,
            list(tokens_BT),
            positions=None if positions_BT is None else list(positions_BT),
            sizes=sizes or CHUNKS[:1],
        )
        parts = [logits_BTV[:, : chunk.lengths_B[0]] for chunk, logits_BTV in walk.results()]
        return np.concatenate(parts, axis=1)

    def _complete(
        self, prompts, logprobs, sampling, options, stop_ids: Collection[int] = ()
    ) -> list[Completion]:
        completions, blocks = self._begin(
            prompts, logprobs, False, sampling=sampling, options=options, stop_ids=stop_ids
        )
        for _ in blocks:
            pass
        return completions

    def _begin(
        self,
        prompts: Prompts,
        logprobs: int | None,
        streamed: bool,
        *,
        sampling: PerPrompt[Sampling] | None,
        options: SamplingOptions,
        stop_ids: Collection[int] = (),
    ) -> tuple[list[Completion], Iterator[list[str]]]:
        """Check everything, then the completions and the iterator that fills them."""
        ids = [self._encode(prompt) for prompt in prompts]
        if not ids:
            raise UserError("there is no prompt: pass a text, token ids, or a list of such")
        rows = self._samplings(len(ids), sampling, options)
        for prompt, row in zip(ids, rows, strict=True):
            self._check_context(len(prompt) + row.max_tokens - 1)
        decode_options = self._decode_options(rows, logprobs, stop_ids, prompts=ids)
        texts = [
            None if self.tokenizer is None else TextStream(self.tokenizer, prompt, row.stop)
            for prompt, row in zip(ids, rows, strict=True)
        ]
        completions = [Completion() for _ in ids]
        blocks = run(
            self._generator,
            partial(self._generator.start, ids),
            decode_options,
            texts,
            completions,
            top=logprobs,
            streamed=streamed,
        )
        return completions, blocks

    def _samplings(
        self, count: int, sampling: PerPrompt[Sampling] | None, options: SamplingOptions
    ) -> Sequence[Sampling]:
        if sampling is not None and options:
            raise UserError(f"pass sampling or {', '.join(options)}, not both")
        if sampling is None:
            rows = samplings(count, options)
        else:
            rows = one_a_prompt("sampling", sampling, count)
        for row in rows:
            if row.max_tokens < 1:
                raise UserError(f"max_tokens is {row.max_tokens}: expected at least 1")
        if any(row.stop for row in rows):
            self._text_tokenizer("look for stop strings", "leave out stop=")
        return rows

    def _decode_options(
        self,
        rows: Sequence[Sampling],
        logprobs: int | None,
        stop_ids: Collection[int] = (),
        *,
        prompts: Sequence[Sequence[int]],
    ) -> DecodeOptions:
        """stop_ids: that end an answer, beside the tokenizer's. prompts: for their repetition."""
        if logprobs is not None and not 0 <= logprobs <= self.config.vocab_size:
            raise UserError(f"logprobs is {logprobs!r}: expected None or a number from 0")
        own = (*(self.tokenizer.stop_ids if self.tokenizer else ()), *sorted(stop_ids))
        return decode_options(rows, prompts, own, self._generator.vocab_size)

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            tokenizer = self._text_tokenizer("read text", "pass token ids")
            check_text(prompt)
            ids = tokenizer.encode(prompt) if prompt else []
        else:
            ids = self._ids(prompt)
        if not ids:
            raise UserError(
                "the prompt is empty: pass at least one character or token, such as "
                "[lm.tokenizer.bos_id] for a text from its very beginning"
            )
        self._check_ids(ids)
        return ids

    def _ids(self, prompt: Sequence[int]) -> list[int]:
        """Token ids as a list, which may be empty."""
        if not isinstance(prompt, Sequence | np.ndarray):
            raise UserError(f"a prompt is {prompt!r}: expected text or a list of token ids")
        ids = as_ids(prompt)
        self._check_ids(ids)
        return ids

    def _check_ids(self, ids: Sequence[int]) -> None:
        outside = [i for i in ids if not 0 <= i < self.config.vocab_size]
        if outside:
            raise UserError(
                f"token {outside[0]} is outside the vocabulary of {self.config.vocab_size} "
                f"(ids 0 to {self.config.vocab_size - 1})"
            )

    def _check_context(self, tokens: int) -> None:
        most = self.config.context_length
        if "global_attention" in self.config.block_types and tokens > most:
            raise UserError(
                f"what is read and max_tokens need {tokens} tokens of context, and this model's "
                f"global attention holds context_length={most}: shorten them"
            )

    def _text_tokenizer(self, purpose: str, remedy: str) -> Tokenizer:
        if self.tokenizer is None:
            raise UserError(
                f"this model came without a tokenizer and cannot {purpose}: put tokenizer.model "
                f"or tokenizer.json beside its checkpoint, or {remedy}"
            )
        return self.tokenizer
