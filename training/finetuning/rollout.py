# SPDX-License-Identifier: Apache-2.0
"""Answers that a model draws itself, with the log-probability of each token, for training on them.

    sampler = Sampler(graphdef, config, tokenizer, most=40, max_new_tokens=64, stop_ids=ids)
    rollout, answers = sampler.draw(params, questions, seed=[seed, iteration])

The prompts are read in chunks and decoded side by side by the programs of `LanguageModel`
(generation/decode.py), compiled once: the parameters are an argument. Tokens are drawn at
temperature 1 from all of the tokenizer's ids, so that the log-probability is the policy's own. An
answer ends with a stop token, which is a token of it, or after max_new_tokens.

Legend: B answers, T tokens of prompt and answer, A tokens of an answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from recurrentgemma.config import GriffinConfig
from recurrentgemma.generation.decode import CAPACITY, Generator, decode_options
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.griffin import Griffin
from recurrentgemma.text.streaming import TextStream
from recurrentgemma.text.tokenizer import Tokenizer
from training.finetuning.questions import Question


class Rollout(NamedTuple):
    """Rows of a prompt, its answer, and padding."""

    tokens_BT: Any  # int32
    prompt_B: Any  # int32, tokens of the prompt
    answer_B: Any  # int32, tokens of the answer, a stop token included
    log_prob_BA: Any  # float32, of the answer's tokens as they were drawn; 0 behind them
    reward_B: Any  # float32


class Sampler:
    """Draws answers for prompts of at most `most` tokens."""

    def __init__(
        self,
        graphdef: nnx.GraphDef[Griffin],
        config: GriffinConfig,
        tokenizer: Tokenizer,
        *,
        most: int,
        max_new_tokens: int,
        stop_ids: Sequence[int],
    ) -> None:
        self._generator = Generator(graphdef, None, config, tokenizer.vocab_size)
        self._tokenizer, self._stop_ids = tokenizer, tuple(stop_ids)
        self._answer, self._row = max_new_tokens, most + max_new_tokens

    def draw(
        self,
        params: Any,
        questions: Sequence[Question],
        *,
        seed: Sequence[int],
        temperature: float = 1.0,
    ) -> tuple[Rollout, list[str]]:
        """An answer to each question, still without rewards, and its text. params: all of the
        model's, as one nnx.State. seed: decides what is drawn. temperature: 0 takes the likeliest
        tokens."""
        seeds = np.random.default_rng(list(seed)).integers(2**63, size=len(questions))
        samplings = [
            Sampling(max_tokens=self._answer, temperature=temperature, seed=int(one))
            for one in seeds
        ]
        prompts = [question.ids for question in questions]
        vocab_size = self._tokenizer.vocab_size
        options = decode_options(samplings, prompts, self._stop_ids, vocab_size)
        tokens, log_probs = self._decoded(params, prompts, jax.device_put(options))
        rollout = self._rows(prompts, tokens, log_probs)
        return rollout, [self._text(*both) for both in zip(prompts, tokens, strict=True)]

    def _decoded(
        self, params: Any, prompts: Sequence[Sequence[int]], options: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        generator = self._generator
        generator.params = params
        tokens: list[list[int]] = [[] for _ in prompts]
        log_probs: list[list[float]] = [[] for _ in prompts]
        decode_state, is_over = generator.start(prompts), False
        while not is_over:
            decode_state, decoded = generator.advance(decode_state, options, CAPACITY, top=0)
            decoded, done_B = jax.device_get((decoded, decode_state.done_B))
            for row, taken in enumerate(decoded.taken_B.tolist()):
                tokens[row] += decoded.tokens_BC[row, :taken].tolist()
                log_probs[row] += decoded.logp_BC[row, :taken].tolist()
            is_over = bool(done_B.all())
        generator.params = None  # the update donates them
        return tokens, log_probs

    def _rows(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: Sequence[Sequence[int]],
        log_probs: Sequence[Sequence[float]],
    ) -> Rollout:
        count = len(prompts)
        tokens_BT = np.zeros((count, self._row), np.int32)
        log_prob_BA = np.zeros((count, self._answer), np.float32)
        for row, (prompt, answer) in enumerate(zip(prompts, tokens, strict=True)):
            tokens_BT[row, : len(prompt) + len(answer)] = [*prompt, *answer]
            log_prob_BA[row, : len(answer)] = log_probs[row]
        return Rollout(
            tokens_BT,
            np.array([len(prompt) for prompt in prompts], np.int32),
            np.array([len(answer) for answer in tokens], np.int32),
            log_prob_BA,
            np.zeros(count, np.float32),
        )

    def _text(self, prompt: Sequence[int], answer: Sequence[int]) -> str:
        ended = bool(answer) and answer[-1] in self._stop_ids
        stream = TextStream(self._tokenizer, prompt)
        return stream.push(answer[: len(answer) - ended]) + stream.finish()

    def is_cut(self, rollout: Rollout) -> np.ndarray:
        """Bool [B]: the answers that max_new_tokens has ended, not a stop token."""
        ends_B = rollout.prompt_B + rollout.answer_B - 1
        last_B = rollout.tokens_BT[np.arange(len(ends_B)), ends_B]
        return ~np.isin(last_B, self._stop_ids)
