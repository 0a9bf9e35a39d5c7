# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning: what is read before anything is trained, and the memory that it takes.

Full fine-tuning trains every parameter, in float32 whatever the checkpoint holds. LoRA leaves them
as they are stored and trains adapters (lora.py). Both learn from the answers of conversations alone
(chat_documents.py). A conversation longer than a row goes on in the next batch with the model's
state carried along, so each is seen from its beginning and none is cut.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from checkpoints import hyper_adapters
from checkpoints.hub_names import read_name
from checkpoints.load import named_tokenizer_of, open_checkpoint
from checkpoints.model_json import config_named
from checkpoints.shapes import resolve_config
from checkpoints.store import STEPS, newest_whole
from recurrentgemma.adapters import adapted_layers
from recurrentgemma.config import Dtype, GriffinConfig, Remat
from recurrentgemma.errors import UserError
from recurrentgemma.lora_config import LoraConfig
from recurrentgemma.parameters import param_shapes
from recurrentgemma.text.tokenizer import Tokenizer, check_vocabulary
from training.data.chat_documents import ChatDocuments, Examples, count_examples
from training.data.documents import load_named_tokenizer
from training.data.sources.chat_lines import PLAIN, ChatLines
from training.data.sources.spec import parse_spec

RATES = {"full": 1e-5, "lora": 2e-4}  # learning rates where none is given
WARMUP = 0.03  # of the steps, where none is given


class Base(NamedTuple):
    """A checkpoint to start from, before its tensors are read."""

    init_from: str  # a path or a name, as TrainConfig has them; and so is `tokenizer_from`
    config: GriffinConfig
    tokenizer: Tokenizer
    tokenizer_from: str


def read_base(
    named: str,
    *,
    full: bool,
    tokenizer: str = "",
    config: str | None = None,
    dtype: Dtype = "bfloat16",
    remat: Remat = "auto",
    scan_layers: bool = False,
) -> Base:
    """What a checkpoint of any format is, at a path or of a name on a hub, and how it is to be
    trained: in float32 parameters if in full, else in those that are stored; `dtype` is that of
    activations. Of a run that adapters are to be trained on it is the newest step, which stays what
    it is when the run goes on.

    Raises:
      UserError: there is no checkpoint, it contradicts its config, or there is no tokenizer.
    """
    checkpoint = open_checkpoint(named)
    stored = resolve_config(checkpoint, None if config is None else config_named(config), None)
    if tokenizer:
        tokens, where = load_named_tokenizer(tokenizer, stored.vocab_size), tokenizer
    else:
        tokens, where = named_tokenizer_of(checkpoint, named, stored.vocab_size)
        if tokens is None:
            raise UserError(
                f"{named}: no tokenizer lies beside this checkpoint; put it there, or name it with "
                f"--tokenizer"
            )
    check_vocabulary(tokens, stored.vocab_size)
    trained = dataclasses.replace(
        stored,
        dtype=dtype,
        param_dtype="float32" if full else checkpoint.stored_dtype,
        remat=remat,
        scan_layers=scan_layers,
    )
    if read_name(named) is not None:
        return Base(named, trained, tokens, where)
    path = Path(named)
    is_code = (path / hyper_adapters.CONFIG).is_file()  # its steps are no models
    if not full and (path / STEPS).is_dir() and not is_code:
        path = newest_whole(path) or path
    return Base(str(path.resolve()), trained, tokens, where)


def chat_specs(
    data: Sequence[str],
    *,
    messages: str = "",
    prompt: str = "",
    response: str = "",
    answers: str = "all",
    plain: bool = False,
) -> tuple[str, ...]:
    """Sources for files of JSON lines or Parquet; what is a source already stays.

    Raises:
      UserError: a source of another kind than `chat:`, or options both in it and beside it.
    """
    options = {"messages": messages, "prompt": prompt, "response": response}
    options |= {"answers": "last" if answers == "last" else ""}
    options |= {"template": PLAIN if plain else ""}
    text = "&".join(f"{option}={value}" for option, value in options.items() if value)
    specs = []
    for name in data:
        if not Path(name).exists() and ":" in name:
            spec = parse_spec(name)
            if spec.kind != "chat":
                raise UserError(
                    f"{name!r}: fine-tuning reads prompts with responses, chat:GLOB; to go on "
                    f"training on plain text use `griffin train`"
                )
            if text and spec.options:
                raise UserError(f"{name!r} has options of its own: say {text} there or nowhere")
            name = name.removeprefix("chat:")
        specs.append(f"chat:{name}" + (f"?{text}" if text else ""))
    return tuple(specs)


def read_examples(specs: Sequence[str], tokenizer: Tokenizer) -> Examples:
    """Every conversation of one source or more, read once.

    Raises:
      UserError: the first that cannot be learned from, by file and line.
    """
    return count_examples([ChatDocuments(ChatLines(parse_spec(s)), tokenizer) for s in specs])


def memory(config: GriffinConfig, lora: LoraConfig | None) -> dict[str, int]:
    """Bytes that training holds besides activations: parameters, gradients and AdamW's moments.

    In full, each is float32. With LoRA the parameters are as config.param_dtype says, and only the
    adapters, in float32, have gradients and moments.
    """
    parameters = sum(math.prod(shape) for shape in param_shapes(config).values())
    trained, size = parameters, 4 * parameters
    if lora is not None:
        layers = adapted_layers(config, lora).values()
        trained = sum(lora.rank * (outputs + inputs) for outputs, inputs in layers)
        size = parameters * (4 if config.param_dtype == "float32" else 2) + 4 * trained
    return {
        "trained": trained,
        "parameters": size,
        "gradients": 4 * trained,
        "optimizer": 8 * trained,
        "bytes": size + 12 * trained,
    }
