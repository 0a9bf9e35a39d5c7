# SPDX-License-Identifier: Apache-2.0
"""From a completion request to the engine's requests, and from the engine's events to choices.

A whole answer is its streamed chunks put together, so the two cannot differ.
"""

import dataclasses
import secrets
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from recurrentgemma.generation.reading import Point
from recurrentgemma.generation.sampling import Sampling
from serving.engine.engine import Engine
from serving.engine.request import Event, GenerationRequest, TokenScore
from serving.features.adapters import ServedAdapter, chosen
from serving.http.protocol import (
    Choice,
    Completion,
    CompletionRequest,
    Logprobs,
    PromptTokensDetails,
    Usage,
    new_completion_id,
    now,
)
from serving.http.request_fields import RequestFields
from serving.http.structure import constraint_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """What one HTTP request asks of the engine: sequence `i` answers `requests[i]`, which has
    prompt `i // drawn`."""

    body: RequestFields
    requests: tuple[GenerationRequest, ...]
    echoes: tuple[str, ...]  # the text that goes before each sequence's own; "" without echo


def read_questions(body: CompletionRequest, engine: Engine) -> Questions:
    """Tokenise and check. Choice k of a prompt takes `seed + k`, so choice 0 is the answer for n =
    1.

    Raises UserError, which names the field: a text prompt or a stop string without a tokenizer, a
    token outside the vocabulary, a prompt that is too long, alone or together with its answer, a
    form of the answer that cannot be kept to.
    """
    requests: list[GenerationRequest] = []
    echoes = []
    constraint, adapter = constraint_of(body, engine), chosen(engine.adapters, body.model)
    for prompt in body.prompt:
        request = _request(body, engine, prompt, constraint=constraint, adapter=adapter)
        echo = ""
        if body.echo:
            echo = prompt if isinstance(prompt, str) else engine.decode(request.prompt)
        if requests:  # without a seed one is drawn for all prompts
            sampling = dataclasses.replace(request.sampling, seed=requests[0].sampling.seed)
            request = dataclasses.replace(request, sampling=sampling)
        requests += asked_of(request, body)
        echoes += [echo] * body.drawn
    return Questions(body=body, requests=tuple(requests), echoes=tuple(echoes))


def read_prompt(
    body: CompletionRequest,
    engine: Engine,
    prompt: str | list[int],
    *,
    before: Point,
    adapter: ServedAdapter | None,
) -> Questions:
    """What goes on with a session, which may have learned an adapter: as read_questions, for this
    one prompt."""
    constraint = constraint_of(body, engine)
    request = _request(body, engine, prompt, constraint=constraint, before=before, adapter=adapter)
    return Questions(body=body, requests=(request,), echoes=("",))


def _request(
    body: CompletionRequest, engine: Engine, prompt: str | list[int], **more: Any
) -> GenerationRequest:
    request = GenerationRequest(
        prompt=engine.tokens(prompt),
        sampling=sampling_of(body, max_tokens=body.max_tokens),
        logprobs=0 if body.logprobs is None and body.drawn > body.n else body.logprobs,
        prompt_logprobs=body.echo and body.logprobs is not None,
        **more,
    )
    engine.check(request)
    return request


def sampling_of(body: RequestFields, *, max_tokens: int) -> Sampling:
    """How the first choice is drawn; without a seed one of chance."""
    return Sampling(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_k=max(0, body.top_k),
        top_p=body.top_p,
        min_p=body.min_p,
        stop=tuple(body.stop),
        seed=secrets.randbits(31) if body.seed is None else body.seed,
        logit_bias=tuple(body.logit_bias.items()),
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        repetition_penalty=body.repetition_penalty,
        stop_token_ids=tuple(body.stop_token_ids),
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
    )


def asked_of(request: GenerationRequest, body: RequestFields) -> tuple[GenerationRequest, ...]:
    """The requests for the answers to one prompt, of consecutive seeds."""
    seed = request.sampling.seed
    assert seed is not None
    seeds = [dataclasses.replace(request.sampling, seed=seed + k) for k in range(body.drawn)]
    return tuple(dataclasses.replace(request, sampling=sampling) for sampling in seeds)


class Counts:
    """The tokens of one HTTP request, as its events tell them."""

    def __init__(self, questions: Questions):
        self._questions = questions
        self._generated = [0] * len(questions.requests)
        self._cached = [0] * len(questions.requests)

    def take(self, index: int, event: Event) -> None:
        self._generated[index] = event.num_generated
        self._cached[index] = event.cached_tokens

    def usage(self) -> Usage:
        drawn = self._questions.body.drawn  # to one prompt, which counts once
        prompts = self._questions.requests[::drawn]
        prompt_tokens = sum(len(request.prompt) for request in prompts)
        completion_tokens = sum(self._generated)
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=sum(self._cached[::drawn])),
        )


class Answer:
    """Turns events into chunks, and counts. One for each HTTP request."""

    def __init__(self, questions: Questions, engine: Engine, *, model: str = ""):
        self._questions = questions
        self._engine = engine
        self._head: dict[str, Any] = {"id": new_completion_id(), "object": "text_completion"}
        self._head |= {"created": now(), "model": model}
        self._parts: list[list[Choice]] = [[] for _ in questions.requests]
        assert isinstance(questions.body, CompletionRequest)
        self._with_logprobs = questions.body.logprobs is not None
        self._begun = [False] * len(questions.requests)
        self._counts = Counts(questions)
        self._logps: list[list[float]] = [[] for _ in questions.requests]
        self._show_ids = questions.body.return_token_ids or engine.lm.tokenizer is None

    def take(self, index: int, event: Event) -> None:
        """Keep what this event adds to choice `index`."""
        self._parts[index].append(self.chunk(index, event))
        self._logps[index] += [s.logprob for s in event.scores if s.logprob is not None]

    def chunks(self, index: int, event: Event, extra: dict[str, Any]) -> list[BaseModel]:
        """What of a stream this event makes."""
        return [Completion(**self._head, choices=[self.chunk(index, event)], **extra)]

    def last(self) -> BaseModel:
        """The last chunk of a stream whose usage is asked for."""
        return Completion(**self._head, choices=[], usage=self.usage())

    def whole(self) -> BaseModel:
        """The answer, once every choice has ended."""
        choices = []
        for number, index in enumerate(self._best()):
            choice = join(self._parts[index])
            choice.index = number
            choices.append(choice)
        return Completion(**self._head, choices=choices, usage=self.usage())

    def chunk(self, index: int, event: Event) -> Choice:
        """The part of choice `index` that this event adds."""
        first, self._begun[index] = not self._begun[index], True
        self._counts.take(index, event)
        choice = Choice(index=index, text=event.text, logprobs=None, finish_reason=None)
        echo = self._questions.echoes[index]
        if first:
            choice.text = echo + event.text
            if self._questions.body.return_token_ids:
                choice.prompt_token_ids = [int(id) for id in self._questions.requests[index].prompt]
        if self._show_ids:
            choice.token_ids = list(event.token_ids)
        if self._with_logprobs:
            scores = [s._replace(offset=s.offset + len(echo)) for s in event.scores]
            choice.logprobs = self._logprobs([*event.prompt_scores, *scores])
        choice.finish_reason = event.finish_reason
        return choice

    def usage(self) -> Usage:
        return self._counts.usage()

    def _best(self) -> list[int]:
        """The sequences that are told, by prompt; of more than n those of the highest mean
        log-probability of a token, the best first."""
        n, drawn = self._questions.body.n, self._questions.body.drawn
        best = []
        for start in range(0, len(self._parts), drawn):
            indices = list(range(start, start + drawn))
            if drawn > n:
                indices.sort(key=lambda i: -sum(self._logps[i]) / max(1, len(self._logps[i])))
            best += indices[:n]
        return best

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
