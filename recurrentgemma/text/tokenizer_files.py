# SPDX-License-Identifier: Apache-2.0
"""What lies beside a tokenizer in its directory: templates, roles, and the ids that end an answer.

The tokenizer itself is one of the three kinds in `tokenizer.py`; these files travel with it, from a
base through a run to an export, unread but for what is said here.
"""

import json
from pathlib import Path
from typing import Any

from recurrentgemma.errors import UserError

ROLES = "tokenizer_config.json"  # names the tokens that begin, end and fill a text
TEMPLATE = "chat_template.jinja"
LEGACY_TEMPLATE = "chat_template.json"  # where transformers' processors had it
GENERATION = "generation_config.json"  # its eos_token_id ends an answer, one id or several
MODEL = "config.json"  # where transformers looks for eos_token_id if there is no GENERATION
SPECIAL = "special_tokens_map.json"
BESIDE = (ROLES, SPECIAL, "added_tokens.json", TEMPLATE, LEGACY_TEMPLATE, GENERATION)


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
      ValueError: it is not UTF-8; the file is named.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error}); copy it again") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, which may begin with a byte order mark.

    Raises:
      ValueError: it is not JSON, or not an object; the file is named.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not a JSON file ({error}); it may be cut off") from None
    except RecursionError:
        raise UserError(f"{path}: holds JSON nested too deeply to be read; copy it again") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def generation_stops(directory: Path) -> tuple[int, ...]:
    """The ids at which transformers ends an answer: eos_token_id in generation_config.json, or
    without one in its config.json.

    Raises:
      ValueError: it is neither an id nor a list of such.
    """
    path = directory / GENERATION
    if not path.is_file():
        path = directory / MODEL
        if not path.is_file() or "model_type" not in read_json(path):  # ours has no such field
            return ()
    stops = read_json(path).get("eos_token_id")
    stops = [] if stops is None else stops if isinstance(stops, list) else [stops]
    if not all(type(stop) is int and 0 <= stop < 2**31 for stop in stops):
        raise UserError(f"{path}: eos_token_id={stops!r}: expected a token id, or a list of such")
    return tuple(stops)


def read_generation(directory: Path) -> dict[str, bytes]:
    """generation_config.json, if there is one, or what transformers makes of the config.json."""
    stops = generation_stops(directory)
    if not stops or (directory / GENERATION).is_file():
        return read_beside(directory, (GENERATION,))
    return {GENERATION: json.dumps({"eos_token_id": stops}).encode()}


def read_beside(directory: Path, names: tuple[str, ...] = BESIDE) -> dict[str, bytes]:
    """The files of these names that there are."""
    return {n: (directory / n).read_bytes() for n in names if (directory / n).is_file()}
