# SPDX-License-Identifier: Apache-2.0
"""From a completion request to the engine's requests, and from the engine's events to choices.

A whole answer is its streamed chunks put together, so the two cannot differ.
"""

import dataclasses
import secrets
from collections.abc import Iterable

from recurrentgemma.errors import UserError
from recurrentgemma.generation.sampling import Sampling
from serving.engine.engine import Engine, Event, GenerationRequest, TokenScore
from serving.http.protocol import Choice, CompletionRequest, Logprobs, Usage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one HTTP request asks of the engine: choice `i` is `requests[i]`, of prompt `i // n`."""

    body: CompletionRequest
    requests: tuple[GenerationRequest, ...]
    echoes: tuple[str, ...]  # the text that goes before each choice's own; "" without echo


def plan(body: CompletionRequest, engine: Engine) -> Plan:
    """Tokenise and check. Choice k of a prompt takes `seed + k`, so choice 0 is the answer for n =
    1.

    Raises UserError: a text prompt or a stop string without a tokenizer, a token outside
    the vocabulary, a prompt and answer that are too long together, more sequences than the server
    can ever hold.
    """
    if body.stop and engine.lm.tokenizer is None:
        message = "a stop string needs a tokenizer, and this checkpoint has none: leave it out"
        raise UserError(message, field="stop")
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
        ids = engine.encode(prompt) if isinstance(prompt, str) else prompt
        echo = (prompt if isinstance(prompt, str) else engine.decode(ids)) if body.echo else ""
        for k in range(body.n):
            request = GenerationRequest(
                prompt=tuple(ids),
                sampling=dataclasses.replace(sampling, seed=seed + k),
                logprobs=body.logprobs,
                prompt_logprobs=body.echo and body.logprobs is not None,
            )
            engine.check(request)
            requests.append(request)
            echoes.append(echo)
    return Plan(body=body, requests=tuple(requests), echoes=tuple(echoes))


class Answer:
    """Turns events into chunks, and counts. One for each HTTP request."""

    def __init__(self, plan: Plan, engine: Engine):
        self._plan = plan
        self._engine = engine
        self._begun = [False] * len(plan.requests)
        self._generated = [0] * len(plan.requests)
        self._show_ids = plan.body.return_token_ids or engine.lm.tokenizer is None

    def chunk(self, index: int, event: Event) -> Choice:
        """The part of choice `index` that this event adds."""
        first, self._begun[index] = not self._begun[index], True
        self._generated[index] = event.num_generated
        choice = Choice(index=index, text=event.text, logprobs=None, finish_reason=None)
        echo = self._plan.echoes[index]
        if first:
            choice.text = echo + event.text
            if self._plan.body.return_token_ids:
                choice.prompt_token_ids = list(self._plan.requests[index].prompt)
        if self._show_ids:
            choice.token_ids = list(event.token_ids)
        if self._plan.body.logprobs is not None:
            scores = [dataclasses.replace(s, offset=s.offset + len(echo)) for s in event.scores]
            choice.logprobs = self._logprobs([*event.prompt_scores, *scores])
        choice.finish_reason = event.finish_reason
        return choice

    def usage(self) -> Usage:
        prompts = self._plan.requests[:: self._plan.body.n]
        asked, answered = sum(len(request.prompt) for request in prompts), sum(self._generated)
        return Usage(prompt_tokens=asked, completion_tokens=answered, total_tokens=asked + answered)

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
                    other = id != score.token_id and name(id) in top  # two tokens, one text
                    top[f"token_id:{id}" if other else name(id)] = logprob
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
