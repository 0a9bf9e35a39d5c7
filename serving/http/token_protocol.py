# SPDX-License-Identifier: Apache-2.0
"""vLLM's `/tokenize`, `/detokenize` and `/tokenizer_info` as pydantic models."""

from typing import Any

from pydantic import BaseModel, Field, model_validator

from serving.http.request_fields import STRICT, invalid

_OF_CHATS = ("add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools")


class TokenizeRequest(BaseModel):
    """A text, or messages. add_special_tokens: with the tokenizer's bos before a text; a chat
    template writes its own."""

    model_config = STRICT

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = False
    messages: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _one(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise invalid("expected one of 'prompt' and 'messages'", "prompt")
        of_chats = [name for name in _OF_CHATS if getattr(self, name) is not None]
        if self.messages is None and of_chats:
            raise invalid(f"'{of_chats[0]}' is for 'messages': leave it out", of_chats[0])
        if self.messages is not None and self.add_special_tokens:
            message = "a chat template writes its own special tokens: leave it out"
            raise invalid(message, "add_special_tokens")
        return self

    @property
    def of_chat(self) -> dict[str, Any]:
        """The fields that a chat's request has, too."""
        names = ("messages", *_OF_CHATS)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Tokenized(BaseModel):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(BaseModel):
    model_config = STRICT

    model: str | None = None
    tokens: list[int] = Field(max_length=10_000_000)


class Detokenized(BaseModel):
    prompt: str


class TokenizerInfo(BaseModel):
    """The special tokens by transformers' names of them."""

    tokenizer_class: str
    vocab_size: int
    model_max_length: int
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    stop_token_ids: list[int]
    special_tokens: dict[str, str]
    chat_template: str | None
