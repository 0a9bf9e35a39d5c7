# SPDX-License-Identifier: Apache-2.0
"""A tokenizer's files for transformers: the same ids, the same chat, the same stops as here.

    tokenizer.json           read by transformers as it is; begins each text with BOS as `encode`
                             does. Made here where the base had none, or one with other ids.
    tokenizer_config.json    the base's; its class is the one that reads tokenizer.json as it is
                             (GemmaTokenizer would rebuild it, and add a token of its own)
    chat_template            the base's, or Gemma's, which `encode_chat` writes
    generation_config.json   the base's, with every id that ends an answer here

What else lay beside the tokenizer is copied. One difference remains: transformers reads a literal
`<bos>`, `<eos>` or `<pad>` in a text as that token, a SentencePiece model as its characters.
"""

import json
import re
from pathlib import Path
from typing import Any

import sentencepiece.sentencepiece_model_pb2 as sentencepiece_proto
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from recurrentgemma.errors import UserError
from recurrentgemma.text.byte_tokenizer import ByteTokenizer
from recurrentgemma.text.chat import END_OF_TURN, START_OF_TURN
from recurrentgemma.text.gemma_chat import GEMMA_TEMPLATE
from recurrentgemma.text.huggingface_tokenizer import FILE, HuggingFaceTokenizer
from recurrentgemma.text.sentencepiece_tokenizer import SentencePieceTokenizer
from recurrentgemma.text.tokenizer import Tokenizer, save_tokenizer
from recurrentgemma.text.tokenizer_files import (
    GENERATION,
    LEGACY_TEMPLATE,
    ROLES,
    SPECIAL,
    TEMPLATE,
)

SAMPLES = (  # what is compared before anything is written
    "",
    " ",
    "To be, or not to be:\n\n  that is the question. 1601, 3.14 + 2",
    " été  façade ß;\t東京 の 日本語 🎉\r\n\0",
    "def f(x):\n    return {'a': [x, 0]}  # <b>",
    "\n\n\n   <start_of_turn>user\n  Hello   there <end_of_turn>\n<start_of_turn>model\n",
)
NORMAL, CONTROL, USER_DEFINED, UNIGRAM = 1, 3, 4, 1  # SentencePiece's numbers


def write(folder: Path, tokenizer: Tokenizer) -> None:
    """Write a tokenizer, and all that lay beside it, for transformers.

    Raises:
      ValueError: no tokenizer.json that the `tokenizers` library reads gives the same ids.
    """
    save_tokenizer(tokenizer, folder)
    content = _tokenizer_json(tokenizer)
    (folder / FILE).write_text(content, encoding="utf-8")
    vocabulary = tokenizers.Tokenizer.from_str(content).get_vocab(with_added_tokens=True)
    tokens = {i: token for token, i in vocabulary.items()}
    is_huggingface = isinstance(tokenizer, HuggingFaceTokenizer)
    base = tokenizer.config if is_huggingface else _read(tokenizer, ROLES)
    config = _config(base, tokenizer, tokens)
    has_template = any(name in tokenizer.beside for name in (TEMPLATE, LEGACY_TEMPLATE))
    turns = {START_OF_TURN, END_OF_TURN} <= tokenizer.control_tokens.keys()
    if not has_template and "chat_template" not in config and turns:
        config["chat_template"] = GEMMA_TEMPLATE
    _write_json(folder / ROLES, config)
    if SPECIAL in tokenizer.beside and not _all_known(_read(tokenizer, SPECIAL), vocabulary):
        (folder / SPECIAL).unlink()
    _write_json(folder / GENERATION, generation_json(tokenizer))


def generation_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: the base's, with every id that ends an answer here."""
    content: dict[str, Any] = {"bos_token_id": tokenizer.bos_id}
    content |= {"pad_token_id": tokenizer.pad_id}
    content |= {"use_cache": True} if GENERATION not in tokenizer.beside else {}
    content |= _read(tokenizer, GENERATION)
    stops, stated = list(tokenizer.stop_ids), content.get("eos_token_id")
    if set(stops) != set(stated if isinstance(stated, list) else [stated]):
        content["eos_token_id"] = stops[0] if len(stops) == 1 else stops or None
    return content


def _tokenizer_json(tokenizer: Tokenizer) -> str:
    """The text of a tokenizer.json that gives the ids of `tokenizer.encode`."""
    contents = []
    if isinstance(tokenizer, HuggingFaceTokenizer):
        contents.append(tokenizer.content)
    elif FILE in tokenizer.beside:
        contents.append(tokenizer.beside[FILE].decode("utf-8-sig"))
    backends = [(content, tokenizers.Tokenizer.from_str(content)) for content in contents]
    if isinstance(tokenizer, SentencePieceTokenizer):
        backends.append(("", from_sentencepiece(tokenizer)))
    elif isinstance(tokenizer, ByteTokenizer):
        backends.append(("", from_bytes(tokenizer)))
    for content, backend in backends:
        backend.no_truncation()
        backend.no_padding()
        if content and _same_ids(backend, tokenizer):
            return content
        bos = "" if tokenizer.bos_id is None else backend.id_to_token(tokenizer.bos_id)
        single = "$A:0" if not bos else f"{bos}:0 $A:0"
        backend.post_processor = processors.TemplateProcessing(
            single=single,
            pair=f"{single} $B:1",
            special_tokens=[(bos, tokenizer.bos_id)] if bos else [],
        )
        if _same_ids(backend, tokenizer):
            return backend.to_str(pretty=True)
    raise UserError(
        "this tokenizer cannot be written for transformers: the tokenizers library gives other ids "
        "to some texts; export to another format, or train with a tokenizer.json"
    )


def _same_ids(backend: tokenizers.Tokenizer, tokenizer: Tokenizer) -> bool:
    return all(backend.encode(text).ids == tokenizer.encode(text) for text in SAMPLES)


def from_sentencepiece(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    """A SentencePiece model as the `tokenizers` library's pipeline.

    BPE merges are ranked by the score of the piece that they make, as SentencePiece does it. Pieces
    that are always whole (the turns) are added tokens; where a text gets a space before it they are
    split off after that, because the library would put one before the text behind each.
    """
    proto = sentencepiece_proto.ModelProto.FromString(tokenizer.model)  # type: ignore[attr-defined]
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    whole = [piece.piece for piece in proto.pieces if piece.type == USER_DEFINED]
    if trainer.model_type == UNIGRAM:
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        model = models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    else:
        model = models.BPE(
            {piece.piece: i for i, piece in enumerate(proto.pieces)},
            _merges({p.piece: p.score for p in proto.pieces if p.type == NORMAL}),
            unk_token=trainer.unk_piece,
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
            ignore_merges=bool(whole) and normalizer.add_dummy_prefix,
        )
    backend = tokenizers.Tokenizer(model)
    steps: list[Any] = []
    if normalizer.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalizer.precompiled_charsmap))
    if normalizer.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    steps.append(normalizers.Replace(" ", "▁"))
    after: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if normalizer.add_dummy_prefix:
        steps.append(normalizers.Replace(Regex(r"\A(?=.)"), "▁"))
        after.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence(after)
    splits = []
    if normalizer.add_dummy_prefix and whole:
        longest_first = sorted(whole, key=len, reverse=True)
        splits.append((Regex("|".join(map(re.escape, longest_first))), "isolated"))
    if trainer.model_type == UNIGRAM or splits:  # a literal <0x41> is its characters, not the byte
        inside = f"(?={re.escape(trainer.unk_piece[1:])}|0x[0-9A-F][0-9A-F]>)"
        splits.append((Regex(re.escape(trainer.unk_piece[0]) + inside), "merged_with_previous"))
    if splits:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(*s) for s in splits])
    if whole and not normalizer.add_dummy_prefix:
        backend.add_special_tokens([AddedToken(p, normalized=False, special=True) for p in whole])
    control = [piece.piece for piece in proto.pieces if piece.type == CONTROL]
    backend.add_special_tokens([AddedToken(p, normalized=False, special=True) for p in control])
    return backend


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    ranked = []
    for number, (piece, score) in enumerate(scores.items()):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, number, left, right))
    return [(left, right) for _, _, left, right in sorted(ranked)]


def from_bytes(tokenizer: ByteTokenizer) -> tokenizers.Tokenizer:
    """Bytes as tokens 0 to 255: byte-level BPE without a merge."""
    shown = _shown_bytes()
    backend = tokenizers.Tokenizer(models.BPE({shown[byte]: byte for byte in range(256)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    names = {"<pad>": tokenizer.pad_id, "<eos>": tokenizer.eos_id, "<bos>": tokenizer.bos_id}
    ordered = sorted({**names, **tokenizer.control_tokens}.items(), key=lambda item: item[1])
    backend.add_special_tokens([AddedToken(n, normalized=False, special=True) for n, _ in ordered])
    return backend


def _shown_bytes() -> dict[int, str]:
    """byte -> the character that byte-level BPE writes for it: GPT-2's table."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def _config(base: dict[str, Any], tokenizer: Tokenizer, tokens: dict[int, str]) -> dict[str, Any]:
    """tokenizer_config.json: the base's, for a tokenizer.json that is read as it is."""
    config = {name: value for name, value in base.items() if name != "auto_map"}
    known = set(tokens.values())
    for name in ("mask_token", "sep_token", "cls_token", "unk_token"):
        if name in config and not _all_known({name: config[name]}, known):
            del config[name]  # transformers would add it, beyond the embedding
    for name in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(config.get(name), list):
            config[name] = [t for t in config[name] if _all_known({name: t}, known)]
    if isinstance(config.get("added_tokens_decoder"), dict):
        config["added_tokens_decoder"] = {
            i: token
            for i, token in config["added_tokens_decoder"].items()
            if str(i).isdigit() and _all_known({"": token}, {tokens.get(int(i))})
        }
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    ids["pad_token"] = tokenizer.pad_id
    return config | {
        **{name: None if i is None else tokens[i] for name, i in ids.items()},
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": tokenizer.bos_id is not None,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }


def _all_known(named: dict[str, Any], known: Any) -> bool:
    """Whether every token, a text or an object that holds it, is one of those known."""
    tokens: list[Any] = []
    for value in named.values():
        tokens += value if isinstance(value, list) else [value]
    contents = [t.get("content") if isinstance(t, dict) else t for t in tokens]
    return all(content is None or content in known for content in contents)


def _read(tokenizer: Tokenizer, name: str) -> dict[str, Any]:
    """The object in a JSON file that lay beside a tokenizer."""
    if name not in tokenizer.beside:
        return {}
    try:
        content = json.loads(tokenizer.beside[name].decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} beside the tokenizer: not a JSON file ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} beside the tokenizer: expected a JSON object")
    return content


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
