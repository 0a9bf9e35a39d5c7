# SPDX-License-Identifier: Apache-2.0
"""What whoever starts a server may choose of its HTTP side."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from eval.dynamic.config import DynamicConfig
from recurrentgemma.errors import UserError
from serving.features.adaptation import CHOICES

MAX_BODY_MIB = 16  # a million tokens as ids, or as text even where each character is escaped
KEYS = "GRIFFIN_API_KEYS"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    max_body_mib: float = MAX_BODY_MIB
    most_open: int = 1000  # requests at once; one more is answered with 503
    timeout_s: float = 0.0  # that an answer may take; 0: as long as it takes
    api_keys: tuple[str, ...] = ()  # one of which a request must have; none: anybody may ask
    open_metrics: bool = False  # /metrics needs no key
    log_prompts: bool = False  # what was asked and answered, in the log
    load_adapters: bool = False  # whether a request may load and drop adapters
    sessions: Path | None = None  # where they are kept
    adapting: int = 0  # sessions that learn, and are held in memory at once; 0: none may
    dynamic: DynamicConfig = CHOICES  # how they do
    cors: tuple[str, ...] = ()  # origins whose pages may ask; "*" is any


def api_keys(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Those of GRIFFIN_API_KEYS, which has commas between them. Raises UserError: it is there and
    holds none, so that a server which was meant to be closed is not open."""
    if KEYS not in environment:
        return ()
    keys = tuple(key.strip() for key in environment[KEYS].split(",") if key.strip())
    if not keys:
        raise UserError(f"{KEYS} is empty: give keys with commas between them, or unset it")
    return keys
