# SPDX-License-Identifier: Apache-2.0
"""`/tokenize`, `/detokenize`, `/tokenizer_info`: the tokenizer, for those who have none."""

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from recurrentgemma.errors import UserError
from recurrentgemma.text.chat import chat_format
from recurrentgemma.text.chat_template_files import DEFAULT, own_templates
from recurrentgemma.text.gemma_chat import GEMMA, GEMMA_TEMPLATE
from recurrentgemma.text.tokenizer import Tokenizer
from serving.engine.engine import Engine
from serving.http.body import json_schema, parse_value
from serving.http.chat_answers import written
from serving.http.chat_protocol import ChatRequest
from serving.http.service import Service, json_response
from serving.http.token_protocol import (
    Detokenized,
    DetokenizeRequest,
    Tokenized,
    TokenizeRequest,
    TokenizerInfo,
)

UNLIMITED = 2**31 - 1  # tokens of a prompt, where a server has no limit


def add_token_routes(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize", response_model=Tokenized, openapi_extra=json_schema(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """The ids of a text, or of messages as the chat template writes them."""
        body = await service.read(request, TokenizeRequest)
        return json_response(await run_in_threadpool(_tokenized, body, service.engine))

    @app.post(
        "/detokenize", response_model=Detokenized, openapi_extra=json_schema(DetokenizeRequest)
    )
    async def detokenize(request: Request) -> Response:
        """The text of ids."""
        body = await service.read(request, DetokenizeRequest)
        return json_response(await run_in_threadpool(_detokenized, body, service.engine))

    @app.get("/tokenizer_info", response_model=TokenizerInfo)
    async def tokenizer_info() -> Response:
        """What kind of tokenizer it is, its special tokens, and the chat template."""
        return json_response(_info(service.engine))


def _tokenizer(engine: Engine, field: str | None) -> Tokenizer:
    if engine.lm.tokenizer is None:
        raise UserError("this checkpoint has no tokenizer: it takes token ids only", field=field)
    return engine.lm.tokenizer


def _tokenized(body: TokenizeRequest, engine: Engine) -> Tokenized:
    tokenizer = _tokenizer(engine, "prompt")
    if body.prompt is None:
        ids = written(parse_value(body.of_chat, ChatRequest), chat_format(tokenizer))
    else:
        ids = tokenizer.encode(body.prompt, bos=body.add_special_tokens is not False)
    answer = Tokenized(count=len(ids), max_model_len=engine.max_prompt or UNLIMITED, tokens=ids)
    if body.return_token_strs:
        answer.token_strs = [engine.token_name(id) for id in ids]
    return answer


def _detokenized(body: DetokenizeRequest, engine: Engine) -> Detokenized:
    tokenizer = _tokenizer(engine, "tokens")
    outside = next((id for id in body.tokens if not 0 <= id < tokenizer.vocab_size), None)
    if outside is not None:
        raise UserError(
            f"token {outside} is outside the vocabulary of {tokenizer.vocab_size}", field="tokens"
        )
    return Detokenized(prompt=tokenizer.decode(body.tokens))


def _info(engine: Engine) -> TokenizerInfo:
    tokenizer = _tokenizer(engine, None)
    return TokenizerInfo(
        tokenizer_class=type(tokenizer).__name__,
        vocab_size=tokenizer.vocab_size,
        model_max_length=engine.max_prompt or UNLIMITED,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        stop_token_ids=list(tokenizer.stop_ids),
        special_tokens=dict(tokenizer.roles),
        chat_template=_template(tokenizer),
    )


def _template(tokenizer: Tokenizer) -> str | None:
    """The text by which chats are written; None where the model knows no chats."""
    own = own_templates(tokenizer)
    if own:
        return own.get(DEFAULT, next(iter(own.values()))).text
    try:
        return GEMMA_TEMPLATE if chat_format(tokenizer).name == GEMMA else None
    except UserError:
        return None
