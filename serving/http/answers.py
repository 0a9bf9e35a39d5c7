# SPDX-License-Identifier: Apache-2.0
"""From a completion request to the engine's requests, and from the engine's events to choices.

A whole answer is its streamed chunks put together, so the two cannot differ.
"""

import dataclasses
import secrets
from collections.abc import Iterable

from recurrentgemma.generation.sampling import Sampling
from serving.engine.engine import Engine
from serving.engine.request import Event, GenerationRequest, TokenScore
from serving.http.protocol import Choice, CompletionRequest, Logprobs, Usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """What one HTTP request asks of the engine: choice `i` answers `requests[i]`, which has prompt
    `i // n`."""

    body: CompletionRequest
    requests: tuple[GenerationRequest, ...]
    echoes: tuple[str, ...]  # the text that goes before each choice's own; "" without echo


def read_questions(body: CompletionRequest, engine: Engine) -> Questions:
    """Tokenise and check. Choice k of a prompt takes `seed + k`, so choice 0 is the answer for n =
    1.

    Raises UserError, which names the field: a text prompt or a stop string without a tokenizer, a
    token outside the vocabulary, a prompt that is too long, alone or together with its answer.
    """
    seed = secrets.randbits(31) if body.seed is None else body.seed
    sampling = Sampling(
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_k=max(0, body.top_k),
        top_p=body.top_p,
        min_p=body.min_p,
        stop=tuple(body.stop),
    )
    requests, echoes = [], []
    for prompt in body.prompt:
        tokens_T = engine.tokens(prompt)
        echo = ""
        if body.echo:
            echo = prompt if isinstance(prompt, str) else engine.decode(tokens_T)
        for k in range(body.n):
            request = GenerationRequest(
                prompt=tokens_T,
                sampling=dataclasses.replace(sampling, seed=seed + k),
                logprobs=body.logprobs,
                prompt_logprobs=body.echo and body.logprobs is not None,
            )
            engine.check(request)
            requests.append(request)
            echoes.append(echo)
    return Questions(body=body, requests=tuple(requests), echoes=tuple(echoes))


class Answer:
    """Turns events into chunks, and counts. One for each HTTP request."""

    def __init__(self, questions: Questions, engine: Engine):
        self._questions = questions
        self._engine = engine
        self._begun = [False] * len(questions.requests)
        self._generated = [0] * len(questions.requests)
        self._show_ids = questions.body.return_token_ids or engine.lm.tokenizer is None

    def chunk(self, index: int, event: Event) -> Choice:
        """The part of choice `index` that this event adds."""
        first, self._begun[index] = not self._begun[index], True
        self._generated[index] = event.num_generated
        choice = Choice(index=index, text=event.text, logprobs=None, finish_reason=None)
        echo = self._questions.echoes[index]
        if first:
            choice.text = echo + event.text
            if self._questions.body.return_token_ids:
                choice.prompt_token_ids = [int(id) for id in self._questions.requests[index].prompt]
        if self._show_ids:
            choice.token_ids = list(event.token_ids)
        if self._questions.body.logprobs is not None:
            scores = [dataclasses.replace(s, offset=s.offset + len(echo)) for s in event.scores]
            choice.logprobs = self._logprobs([*event.prompt_scores, *scores])
        choice.finish_reason = event.finish_reason
        return choice

    def usage(self) -> Usage:
        prompts = self._questions.requests[:: self._questions.body.n]
        prompt_tokens = sum(len(request.prompt) for request in prompts)
        completion_tokens = sum(self._generated)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )

    def _logprobs(self, scores: Iterable[TokenScore]) -> Logprobs:
        name = self._engine.token_name
        out = Logprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for score in scores:
            out.tokens.append(name(score.token_id))
            out.token_logprobs.append(score.logprob)
            out.text_offset.append(score.offset)
            if score.logprob is None:
                out.top_logprobs.append(None)
            else:
                top = {name(score.token_id): score.logprob}
                for id, logprob in score.top:
                    same_text = id != score.token_id and name(id) in top
                    top[f"token_id:{id}" if same_text else name(id)] = logprob
                out.top_logprobs.append(top)
        return out


def join(chunks: list[Choice]) -> Choice:
    """All the chunks of one choice as one."""
    whole = chunks[0].model_copy(deep=True)
    for chunk in chunks[1:]:
        whole.text += chunk.text
        if whole.token_ids is not None and chunk.token_ids is not None:
            whole.token_ids += chunk.token_ids
        if whole.logprobs is not None and chunk.logprobs is not None:
            for field in Logprobs.model_fields:
                getattr(whole.logprobs, field).extend(getattr(chunk.logprobs, field))
        whole.finish_reason = chunk.finish_reason
    return whole
