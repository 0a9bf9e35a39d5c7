# SPDX-License-Identifier: Apache-2.0
"""A saved session: one safetensors file of a state's size, whole or not there at all.

| tensor | shape | |
|---|---|---|
| `position`, `wrapped` | `[1]` | as in State, of all tokens but `unread` |
| `layers.{i}.h`, `layers.{i}.conv` | `[1, E]`, `[1, 3, E]` | recurrent layer i |
| `layers.{i}.keys`, `layers.{i}.values` | `[1, W, K]` | attention layer i |
| `unread` | `[n]` int32 | the tokens to read next: the last ones, n >= 1 where there is any |
| `context` | `[n]` int32 | the last tokens, by which the text of an answer is decoded |

No tensors of a state: nothing that was read before `unread` is remembered. The metadata have
`format`, `version`, `session` (JSON: the fields of `_HEADER`, and `adapter`, the version of the one
that the session has learned, if any) and `sha256`, of that JSON and of all tensors.

The weights are known by their checksums (checksums.py), whatever format they were loaded from. The
config must agree where it says what the model computes; how it is run (`_ANYHOW`) may differ.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from checkpoints import checksums
from checkpoints.files import is_dir, is_file, naming, new_file
from recurrentgemma.config import GriffinConfig
from recurrentgemma.errors import UserError
from recurrentgemma.generation.reading import Point
from recurrentgemma.params import by_path, unstack
from recurrentgemma.state import AttentionState, RecurrentState, State
from recurrentgemma.text.pieces import HeldText
from recurrentgemma.text.tokenizer import tokenizer_fingerprint

if TYPE_CHECKING:
    from recurrentgemma.generation.lm import LanguageModel

FORMAT, VERSION = "griffin-lm session", 1
_HEADER = ("config", "weights", "tokenizer", "tokens_seen", "held", "before", "messages")
_ANYHOW = ("scan_layers", "remat", "a_init")
_FIELDS = {RecurrentState: ("h", "conv"), AttentionState: ("keys", "values")}


def write(path: Path, point: Point, lm: "LanguageModel") -> None:
    """Write a session of `lm` that stands at `point`.

    Raises:
      UserError: something is at `path` that is not a saved session.
      OSError: it cannot be written.
    """
    assert point.after is None, "a file has one state"
    if is_dir(path) or (is_file(path) and not is_session(path)):
        raise UserError(f"{path} is there and is not a saved session: save to another path")
    if not is_dir(path.parent):
        raise UserError(f"there is no directory {path.parent} to save a session in: make it first")
    header = {
        "config": lm.config.to_json(),
        "weights": weights_fingerprint(lm),
        "tokenizer": lm.tokenizer and tokenizer_fingerprint(lm.tokenizer),
        "tokens_seen": point.count,
        "held": point.held.text,
        "before": point.held.before,
        "messages": point.messages,
    }
    if point.adapter:
        header["adapter"] = point.adapter
    tensors = {
        "unread": np.array(point.unread, np.int32),
        "context": np.array(point.context, np.int32),
    }
    if point.state is not None:
        tensors |= _tensors(jax.device_get(point.state))
    session = json.dumps(header, sort_keys=True)
    metadata = {"format": FORMAT, "version": str(VERSION), "session": session}
    metadata["sha256"] = digest(session, tensors)
    with naming(path), new_file(path) as unfinished:
        unfinished.write_bytes(save(tensors, metadata))


def read(path: Path, lm: "LanguageModel", *, adapted: bool = False) -> Point:
    """Where the session in a file stands, which goes on with `lm`.

    adapted: perhaps with an adapter beside it, which Point.adapter tells.

    Raises:
      UserError: there is no such file; it is no saved session, damaged, or a newer version's; or it
        is of another model or tokenizer, or of an adapter, unless `adapted`.
    """
    header, tensors = _read(path)
    _check_model(path, header, lm)
    if header.get("adapter") and not adapted:
        raise UserError(
            f"{path} is a session that learns, and its state is its adapter's: turn its adaptation "
            "off in the server, or go on with it there"
        )
    held = HeldText(header["held"], header["before"])
    if lm.tokenizer is None and held.text:
        raise UserError(
            f"{path} ends with text that is not tokens yet ({held.text[-20:]!r}), and this model "
            "has no tokenizer: load the model with the one that the session was read with"
        )
    state = None
    if "position" in tensors:
        state = jax.device_put(_state(lm.config, tensors))
    return Point(
        state=state,
        unread=tuple(tensors["unread"].tolist()),
        count=header["tokens_seen"],
        context=tuple(tensors["context"].tolist()),
        held=held,
        messages=tuple((role, content) for role, content in header["messages"]),
        adapter=header.get("adapter", ""),
    )


def weights_fingerprint(lm: "LanguageModel") -> str:
    """Of every parameter's name, type, shape and checksum. The first call reads all of them."""
    if lm._fingerprint is None:
        flat = unstack(lm.config, by_path(lm._params))
        sums = checksums.finish(checksums.start(flat))
        lines = (f"{name} {flat[name].dtype} {flat[name].shape} {sums[name]}" for name in flat)
        lm._fingerprint = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32]
    return lm._fingerprint


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the tensors, which are as they were written."""
    if not is_file(path):
        raise UserError(f"there is no saved session {path}")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(
            f"{path} is not a saved session, or damaged ({error}): copy it again"
        ) from None
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path} is a safetensors file, but not a saved session: expected what "
            "Session.save wrote (rg.load reads checkpoints)"
        )
    version = metadata.get("version", "")
    if version != str(VERSION):
        raise UserError(
            f"{path} is a session of format {version}, and this griffin-lm reads format {VERSION}: "
            "it was saved by a newer one; update this one"
        )
    session = metadata.get("session", "")
    if digest(session, tensors) != metadata.get("sha256"):
        raise UserError(f"{path} is damaged: its content is not what was saved; copy it again")
    header = json.loads(session)
    assert set(header) - {"adapter"} == set(_HEADER)
    return header, tensors


def _check_model(path: Path, header: Mapping[str, Any], lm: "LanguageModel") -> None:
    saved, own = GriffinConfig.from_json(header["config"]).to_json(), lm.config.to_json()
    different = [name for name in own if name not in _ANYHOW and saved[name] != own[name]]
    if different in (["dtype"], ["param_dtype"], ["dtype", "param_dtype"]):
        raise UserError(
            f"{path} is a session of a model in {saved['dtype']} with {saved['param_dtype']} "
            f"parameters, and this one is in {own['dtype']} with {own['param_dtype']} parameters: "
            f"load it with --dtype {saved['dtype']}, or rg.load(..., dtype={saved['dtype']!r})"
        )
    if different:
        names = ", ".join(f"{name} {saved[name]!r} (here {own[name]!r})" for name in different)
        raise UserError(
            f"{path} is a session of another model, with {names}: load the one that it was saved "
            "with, or read the text again"
        )
    if header["weights"] != weights_fingerprint(lm):
        raise UserError(
            f"{path} is a session of a model of the same shape with other weights (another "
            "checkpoint, or trained further): load the one that it was saved with, or read the "
            "text again"
        )
    tokenizer = lm.tokenizer and tokenizer_fingerprint(lm.tokenizer)
    if None not in (tokenizer, header["tokenizer"]) and tokenizer != header["tokenizer"]:
        raise UserError(
            f"{path} was read with another tokenizer than this model has here: its tokens mean "
            "other text; load the model with the tokenizer that it was saved with"
        )


def _tensors(state: State) -> dict[str, np.ndarray]:
    tensors = {"position": state.position_B, "wrapped": state.wrapped_B}
    for i, layer in enumerate(state.layers):
        for name, array in zip(_FIELDS[type(layer)], layer, strict=True):
            tensors[f"layers.{i}.{name}"] = array
    return {name: np.ascontiguousarray(array) for name, array in tensors.items()}


def _state(config: GriffinConfig, tensors: Mapping[str, np.ndarray]) -> State:
    layers: list[Any] = []
    for i, block_type in enumerate(config.block_types):
        kind = RecurrentState if block_type == "recurrent" else AttentionState
        arrays: list[Any] = [tensors[f"layers.{i}.{name}"] for name in _FIELDS[kind]]
        layers.append(kind(*arrays))
    return State(tensors["position"], tensors["wrapped"], tuple(layers))  # type: ignore[arg-type]


def digest(header: str, tensors: Mapping[str, np.ndarray]) -> str:
    """Of a header and of every tensor's name, type, shape and content."""
    sha256 = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        array = tensors[name]
        sha256.update(f"\0{name} {array.dtype} {array.shape}\0".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()


def is_session(path: Path) -> bool:
    try:
        with safe_open(path, framework="np") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False
