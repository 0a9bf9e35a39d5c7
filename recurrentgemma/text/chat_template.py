# SPDX-License-Identifier: Apache-2.0
"""Chats as a checkpoint's own chat template writes them, for generation and for training.

A template says what it writes, and not where an answer begins or ends in it. So we render a chat of
two short messages once, and learn what stands before an answer and which control token ends one.
Positions in other chats come from a second rendering, with a mark at the beginning of each answer;
where the marks change anything else, no position is known and no token is made to end there.

In training the prompt of each answer is rendered by itself, and the conversation must go on from
it, character by character: then training sees the tokens that generation sees.
"""

import datetime
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from recurrentgemma.errors import TemplateError, UserError
from recurrentgemma.text.chat_encoding import ChatEncoder, ChatText, pattern
from recurrentgemma.text.chat_messages import Message
from recurrentgemma.text.chat_template_files import DEFAULT, TOOL_USE
from recurrentgemma.text.template_sandbox import Template, literals
from recurrentgemma.text.templated_chat import TemplatedChat

if TYPE_CHECKING:
    from recurrentgemma.text.tokenizer import Tokenizer

_TRAINING_DAY = datetime.datetime(2024, 7, 26)  # Llama's templates have it where there is no clock
_CHOOSE = (
    "choose another by --chat-template (of `griffin train` --data.chat-template), or template=..."
)
_REMEDY = "learn the last answer of each line only, with ?answers=last (--answers last)"


class _Shape(NamedTuple):
    """Of what a template writes: the text before an answer, how many characters of that the answer
    itself begins with (a space, in some), and the control token that ends an answer."""

    lead: str
    own: int
    end: str | None


class TemplateChat:
    """Writes chats by a template, or by one of several with names.

    Raises TemplateError for several without a default.
    """

    def __init__(self, tokenizer: "Tokenizer", templates: Mapping[str, Template]) -> None:
        if DEFAULT not in templates:
            raise TemplateError(
                f"this tokenizer has chat templates named {', '.join(map(repr, templates))} and "
                f"none named {DEFAULT!r}: {_CHOOSE}"
            )
        self._templates = templates
        self._text = "\0".join(template.text for template in templates.values())
        written = "\0".join(literals(template.text) for template in templates.values())
        others = [t for t in tokenizer.other_tokens if t in written and not t.isspace()]
        self.encoder = ChatEncoder(tokenizer, others)
        self._roles = dict(tokenizer.roles)
        digest = hashlib.sha256(self._text.encode("utf-8", "surrogatepass")).hexdigest()
        self.name = f"template:{digest[:16]}"
        self.shown = templates[DEFAULT].name

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """The control token that the template writes after an answer; none where it writes none."""
        shape = self._shape
        return frozenset(() if shape is None or shape.end is None else {self._ids[shape.end]})

    def prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        continues: bool = False,
        now: datetime.datetime | None = None,
    ) -> ChatText:
        """What asks for the next turn; `continues`: for the rest of the last one.

        Raises UserError, which names the field: what no template may see, what this one refuses or
        leaves out.
        """
        chat = self._chat(messages, tools, variables, now=now)
        if continues:
            return self._continuation(chat)
        text = chat.render(asks=True)
        return ChatText(text, self._answers(chat, text, len(messages)), chat.marks, bos=False)

    def conversation(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        last_only: bool,
        now: datetime.datetime | None = None,
    ) -> tuple[ChatText, list[bool]]:
        """The text to learn from, and which of its answers are learned: all, those in `{%
        generation %}` blocks where the template has such, or the last only.

        Raises UserError: there is no answer, or the conversation does not go on from what asked
        for one.
        """
        chat = self._chat(messages, tools, now=now or _TRAINING_DAY)
        answers = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
        if not answers:
            raise UserError("none of the messages has the role 'assistant': there is no answer")
        chat.messages = chat.messages[: answers[-1] + 1]
        whole = chat.rendered(asks=False)
        starts: list[int] = []
        for number in answers[-1:] if last_only else answers:
            asked = chat.render(asks=True, count=number)
            if not whole.text.startswith(asked):
                raise _mistake(
                    chat,
                    f"does not write message {number} after "
                    f"the prompt that asks for it, so training would not see what generation sees; "
                    + _CHOOSE
                    + ("" if last_only else f", or {_REMEDY}"),
                )
            if number != answers[-1]:
                answered = chat.render(asks=False, count=number + 1)[len(asked) :]
                if not whole.text.startswith(asked + self._ended(answered, chat)):
                    raise _mistake(
                        chat,
                        f"rewrites message {number} once the "
                        f"conversation goes on, as those do that drop thoughts: {_REMEDY}",
                    )
            starts.append(len(asked))
        self._ended(whole.text[starts[-1] :], chat)
        known = self._answers(chat, asked, answers[-1])
        cuts = (*(known if last_only else tuple(starts[:-1])), starts[-1])
        if not last_only and known != cuts[:-1]:
            self._check_prompts(chat, ChatText(whole.text, cuts, chat.marks, bos=False), answers)
        learned = [True] * len(cuts) if not last_only else [False] * len(known) + [True]
        if re.search(r"\{%[-+]?\s*generation\b", chat.template.text):
            ends = (*cuts[1:], len(whole.text))
            for number, (start, end) in enumerate(zip(cuts, ends, strict=True)):
                spans = [a < end and b > start for a, b in whole.spans]
                learned[number] = learned[number] and any(spans)
            if not any(learned):
                raise _mistake(
                    chat,
                    "has {% generation %} blocks and none around an answer of this conversation",
                )
        return ChatText(whole.text, cuts, chat.marks, bos=False), learned

    def _check_prompts(self, chat: TemplatedChat, whole: ChatText, answers: Sequence[int]) -> None:
        """Raises UserError: the tokens before an answer are not those of the prompt for it."""
        ids, starts = self.encoder.encode(whole)
        for number, start, end in zip(answers, starts, whole.answers, strict=True):
            asked = whole.text[:end]
            known = self._answers(chat, asked, number)
            prompt, _ = self.encoder.encode(ChatText(asked, known, chat.marks, bos=False))
            if prompt != ids[:start]:
                raise _mistake(
                    chat,
                    f"does not tell where earlier answers of this conversation begin: {_REMEDY}",
                )

    @property
    def _ids(self) -> Mapping[str, int]:
        return self.encoder.ids

    def _chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        *,
        now: datetime.datetime | None = None,
    ) -> TemplatedChat:
        name = TOOL_USE if tools and TOOL_USE in self._templates else DEFAULT
        template, encoder = self._templates[name], self.encoder
        return TemplatedChat(
            template, encoder, messages, tools, variables, roles=self._roles, now=now
        )

    def _continuation(self, chat: TemplatedChat) -> ChatText:
        """The prompt of the last message, and what there is of it."""
        count = len(chat.messages) - 1
        asked = chat.render(asks=True, count=count)
        content = chat.messages[-1]["content"]
        body = content.rstrip()
        if not body:
            return ChatText(asked, self._answers(chat, asked, count), chat.marks, bos=False)
        space = content[len(body) :]
        whole = chat.render(asks=False)
        marked = chat.render(asks=False, last=body + chat.marks.answer + space)
        place = marked.rfind(chat.marks.answer)
        if place < len(asked) or marked.replace(chat.marks.answer, "") != whole:
            place = -1
        if place < 0 or not whole.startswith(asked):
            raise _mistake(
                chat,
                "does not write the last message so that it "
                "can be gone on with: leave continue_final_message out",
                field="continue_final_message",
            )
        end = place + len(space) if whole[place:].startswith(space) else place
        answers = (*self._answers(chat, asked, count), len(asked))
        return ChatText(whole[:end], answers, chat.marks, bos=False)

    def _answers(self, chat: TemplatedChat, text: str, count: int) -> tuple[int, ...]:
        """Where the answers among the first `count` messages begin in `text`, the prompt of the
        next: of all of them, or none where that cannot be told. Raises UserError: another message
        is left out of it."""
        shape, marks = self._shape, chat.marks
        messages = chat.messages[:count]
        marked = chat.render(asks=True, count=count, marked=True)
        plain = marked.replace(marks.answer, "").replace(marks.other, "")
        if plain != text:
            return ()
        others = [m for m in messages if m["role"] != "assistant" and m.get("content", "").strip()]
        if marked.count(marks.other) < len(others):
            for message in others:
                if message["content"].strip() not in text:
                    raise _mistake(
                        chat,
                        f"leaves out the message of "
                        f"{message['role']!r}: this model was not trained on such; leave it out",
                        field=f"messages.{chat.messages.index(message)}",
                    )
        answers = [m.get("content", "") for m in messages if m["role"] == "assistant"]
        answers = [content for content in answers if content.strip()]
        if shape is None or marked.count(marks.answer) != len(answers):
            return ()
        places, removed = [], 0
        for match in re.finditer(f"[{marks.answer}{marks.other}]", marked):
            place = match.start() - removed
            removed += 1
            if match[0] != marks.answer:
                continue
            content = answers[len(places)]
            spaces = len(content) - len(content.lstrip())
            begins = [place - n for n in range(spaces, -1, -1) if n <= place]
            fits = [b for b in begins if text[:b].endswith(shape.lead)]
            if not fits:
                return ()
            places.append(fits[0] - shape.own)
        return tuple(places)

    def _ended(self, answered: str, chat: TemplatedChat) -> str:
        """An answer with what ends it. Raises UserError: nothing does."""
        shape = self._shape
        if shape is not None and shape.end is not None:
            spelt = f"(?<!{chat.marks.opening}){re.escape(shape.end)}"
            if (end := re.search(spelt, answered)) is not None:
                return answered[: end.end()]
        raise _mistake(
            chat,
            "writes no control token after an answer, so a "
            f"model would not learn to end one; {_CHOOSE}",
        )

    @functools.cached_property
    def _shape(self) -> _Shape | None:
        """None where the template does not write a chat of two messages one after the other."""
        user, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
        try:
            chat = self._chat([user, answer], now=_TRAINING_DAY)
            asked = chat.render(asks=True, count=1)
            begun = chat.render(asks=False, count=1)
            mark = chat.marks.answer
            told = chat.render(asks=False, last=f"{mark}b{mark}")
        except UserError:
            return None
        if told.count(mark) != 2 or not told.startswith(asked):
            return None
        own = told.index(mark) - len(asked)
        lead = asked[len(begun) :] if asked.startswith(begun) else ""
        lead += told[len(asked) : len(asked) + own]
        end = pattern(self._ids).search(told, told.rindex(mark))
        return _Shape(lead, own, None if end is None else end[0])


def _mistake(chat: TemplatedChat, what: str, *, field: str | None = None) -> UserError:
    return UserError(f"{chat.template.name}: the chat template {what}", field=field)
