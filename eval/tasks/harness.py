# SPDX-License-Identifier: Apache-2.0
"""A model for EleutherAI's lm-evaluation-harness, over a LanguageModel.

    import lm_eval
    results = lm_eval.simple_evaluate(HarnessModel(lm), tasks=["lambada_openai"])

Its numbers are those of `lm.score`: a text is read after the tokenizer's bos, a document of any
length with its state carried (`loglikelihood_rolling`, where the harness cuts other models'
documents into windows), and a context once for all of its continuations. Contexts are never cut:
one that a model with global attention cannot hold is an error. A chat is written by chat_format, so
no text of a task can forge a turn.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

from jax.sharding import Mesh
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM

from eval.tasks.continuations import Continuation, ContinuationScorer, Ids, batches
from recurrentgemma.errors import UserError
from recurrentgemma.generation.lm import LanguageModel
from recurrentgemma.generation.sampling import Sampling
from recurrentgemma.text.chat import chat_format
from recurrentgemma.text.continuation import encode_continuation

PARTS = 16  # batches after which responses are kept, for a run that goes on
MOST_TOKENS = 256  # of an answer, where a task does not say
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

Pair = tuple[tuple[str, str], list[int], list[int]]  # a request's strings, and their ids


class ChatText(str):
    """A chat as a prompt: its text, to be shown, and its tokens, which the model reads."""

    ids: tuple[int, ...]


class Reader(Protocol):
    """How a model reads what tasks ask: as it is (AsItIs), or learning from it (adapting.py).

    progress: is told how many more are ready.
    """

    def score(
        self, pairs: Sequence[tuple[Ids, Ids]], progress: Callable[[int], None]
    ) -> list[Continuation]:
        """Of each (context, continuation)."""
        ...

    def score_documents(
        self, documents: Sequence[Ids], progress: Callable[[int], None]
    ) -> list[float]:
        """The log-probability in nats of all of a document's tokens but the first, which is what
        stands before a text."""
        ...

    def complete(self, prompts: Sequence[Ids], samplings: Sequence[Sampling]) -> list[str]:
        """The text that follows each of a few prompts."""
        ...


class AsItIs:
    """A model whose parameters stay what they are."""

    def __init__(self, lm: LanguageModel, *, batch_size: int = 8, mesh: Mesh | None = None):
        self._lm = lm
        self._scorer = ContinuationScorer(lm, batch_size=batch_size, mesh=mesh)
        self.score = self._scorer.score

    def score_documents(
        self, documents: Sequence[Ids], progress: Callable[[int], None]
    ) -> list[float]:
        scored = self.score([(ids[:1], ids[1:]) for ids in documents], progress)
        return [continuation.log_probability for continuation in scored]

    def complete(self, prompts: Sequence[Ids], samplings: Sequence[Sampling]) -> list[str]:
        return [answer.text for answer in self._lm.complete(prompts, sampling=samplings)]


class HarnessModel(TemplateLM):
    """See lm_eval.api.model.LM.

    batch_size: rows that are read side by side.
    reader: by default the model as it is.
    progress: is told how many requests are ready, as they become so.
    """

    def __init__(
        self,
        lm: LanguageModel,
        *,
        batch_size: int = 8,
        reader: Reader | None = None,
        progress: Callable[[int], None] = lambda count: None,
    ):
        super().__init__()
        if lm.tokenizer is None:
            raise UserError("this model came without a tokenizer, and tasks are texts")
        self._tokenizer = lm.tokenizer
        self._batch_size = batch_size
        self._reader = reader or AsItIs(lm, batch_size=batch_size)
        self._progress = progress

    @property
    def eot_token_id(self) -> int:
        return self.prefix_token_id if self._tokenizer.eos_id is None else self._tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text from its very beginning."""
        for token in (self._tokenizer.bos_id, self._tokenizer.eos_id):
            if token is not None:
                return token
        raise UserError(
            "this model's tokenizer has neither bos nor eos, and a task has a text without any "
            "context: its first token cannot be scored"
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        if isinstance(string, ChatText):
            return list(string.ids)
        return self._tokenizer.encode(string, bos=add_special_tokens is not False)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """The log-likelihood of each text as a whole, its state carried from end to end."""
        documents = [
            [self.prefix_token_id, *self.tok_encode(request.args[0], False)] for request in requests
        ]
        longest_first = sorted(range(len(documents)), key=lambda index: -len(documents[index]))
        numbers: dict[int, float] = {}
        for indices in batches(longest_first, PARTS * self._batch_size):
            part = [documents[index] for index in indices]
            scored = self._reader.score_documents(part, self._progress)
            for index, number in zip(indices, scored, strict=True):
                numbers[index] = number
                self.cache_hook.add_partial("loglikelihood_rolling", requests[index].args, number)
        return [numbers[index] for index in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        asked: list[Any] = [request.args for request in requests]  # (context, generation_kwargs)
        samplings = [sampling_of(options) for _, options in asked]
        prompts = [self.tok_encode(context) or [self.prefix_token_id] for context, _ in asked]
        longest_first = sorted(range(len(requests)), key=lambda index: -len(prompts[index]))
        texts: dict[int, str] = {}
        for indices in batches(longest_first, self._batch_size):
            answers = self._reader.complete(
                [prompts[index] for index in indices], [samplings[index] for index in indices]
            )
            for index, text in zip(indices, answers, strict=True):
                texts[index] = text
                self.cache_hook.add_partial("generate_until", requests[index].args, text)
            self._progress(len(indices))
        return [texts[index] for index in range(len(requests))]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        ids = self._chats.encode(chat_history, continues=not add_generation_prompt)
        chat = ChatText(self._tokenizer.decode(ids))
        chat.ids = tuple(ids)
        return chat

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self._chats.name if chat_template else None

    @property
    def tokenizer_name(self) -> str:
        return self._chats.name

    @cached_property
    def _chats(self):
        return chat_format(self._tokenizer)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if isinstance(context, ChatText):  # an answer begins where a token ends
            return list(context.ids), encode_continuation(self._tokenizer, continuation, None)
        return super()._encode_pair(context, continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i][1]), requests[i][1]))
        answers: dict[int, tuple[float, bool]] = {}
        for part in batches(order, PARTS * self._batch_size):
            pairs = [requests[index][1:] for index in part]
            scored = self._reader.score(pairs, self._progress)
            for index, continuation in zip(part, scored, strict=True):
                answers[index] = (continuation.log_probability, continuation.greedy)
                self.cache_hook.add_partial("loglikelihood", requests[index][0], answers[index])
        return [answers[index] for index in range(len(requests))]


def sampling_of(options: Mapping[str, Any]) -> Sampling:
    """How an answer is drawn, from the generation_kwargs of a task. Raises UserError: an option
    that we do not have."""
    given = dict(options)
    until = given.pop("until", None) or ()
    lengths = [given.pop(name) for name in _LENGTHS if name in given]
    do_sample = given.pop("do_sample", None)
    temperature = given.pop("temperature", None) or 0.0
    if do_sample is False:
        temperature = 0.0
    elif do_sample and not temperature:
        temperature = 1.0  # what transformers takes for it
    known = {name: given.pop(name) for name in ("top_k", "top_p", "min_p", "seed") if name in given}
    if given:
        raise UserError(
            f"a task's generation_kwargs have {', '.join(sorted(given))}: those that are known are "
            f"until, do_sample, temperature, top_k, top_p, min_p, seed and {_LENGTHS[0]}"
        )
    return Sampling(
        max_tokens=int(lengths[0]) if lengths else MOST_TOKENS,
        temperature=float(temperature),
        stop=(until,) if isinstance(until, str) else tuple(until),
        **known,
    )
