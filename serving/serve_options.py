# SPDX-License-Identifier: Apache-2.0
"""The options of a server, and which of them go together, as far as that is known before a model is
loaded."""

import dataclasses
import math
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import tyro

from eval.dynamic.config import DynamicConfig
from recurrentgemma.errors import UserError
from serving.features.adaptation import CHOICES, check_choices
from serving.features.adapters import named_paths
from serving.http.options import MAX_BODY_MIB, ServerOptions, api_keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeMesh:
    tensor: int = 1
    """Devices over which the channels of every layer are divided."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeArguments:
    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A run, a checkpoint of any format, or a model's name on a hub."""
    host: str = "127.0.0.1"
    """Where to listen; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """0 takes a free one."""
    slots: int = 8
    """How many sequences are decoded at once; each costs one state (griffin info PATH)."""
    queue: int = 256
    """How many more may wait for a slot; beyond that a request is answered with 429."""
    prompts: int = 1
    """How many prompts one call of the device reads. More is faster where many come at once, and
    slower for one that is alone: a program's shape does not depend on who is there."""
    cache: float = 1.0
    """GiB of the device for states of prompts' beginnings, which then are not read again."""
    host_cache: float = 0.0
    """GiB of the host, for those that the device has no room for."""
    max_prompt: int = 1_000_000
    """The longest prompt, in tokens; a longer one is answered with 400."""
    max_body: int = MAX_BODY_MIB
    """The longest body of a request, in MiB; a longer one is answered with 413."""
    sessions: str | None = None
    """A folder for sessions (/v1/sessions), of which each is one file; it is made if need be."""
    timeout: float = 0.0
    """Seconds that an answer may take; one that takes longer is given up (504). 0: any time."""
    max_open: int = 1000
    """Requests that may be open at once; one more is answered with 503."""
    drain: float = 25.0
    """Seconds that running answers may take to end after SIGTERM; new ones get 503. 0: none."""
    open_metrics: bool = False
    """/metrics needs no key (GRIFFIN_API_KEYS)."""
    log_requests: bool = True
    """A line of JSON for each request that is over, without its text."""
    log_prompts: bool = False
    """What was asked and answered stands in the log, too."""
    cors: tuple[str, ...] = ()
    """Origins whose web pages may ask this server, such as https://chat.example; * for any."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters on this model, each as NAME=PATH: a run of griffin finetune --lora, or PEFT's
    directory. A request's `model` chooses one."""
    max_adapters: int = 0
    """Places for adapters, which cost memory and time whether they are taken or not. 0: as many as
    --adapters names, or with --load-adapters at least 16."""
    adapter_rank: int = 0
    """The largest rank. 0: that of --adapters and of sessions that learn, or 16."""
    load_adapters: bool = False
    """Take POST /v1/load_lora_adapter and /v1/unload_lora_adapter, with which whoever may ask this
    server has it read any path."""
    adapting: int = 0
    """Sessions may learn from what they read, and so many of those are held in memory at once; the
    others wait in --sessions. 0: none may."""
    dynamic: DynamicConfig = CHOICES
    """How they learn."""
    speculate: Literal["ngram", "draft"] | None = None
    """Guess tokens ahead and verify several in one call, where it pays."""
    draft: str | None = None
    """The model that guesses with --speculate draft: a path or a name."""
    speculate_least: float = 0.0
    """Tokens that a verification must give, on average. 0: as measured when the server starts."""
    mesh: ServeMesh = dataclasses.field(default_factory=ServeMesh)
    quantize: Literal["int8"] | None = None
    """Weights of linear layers as int8: half the memory of bfloat16; docs/serving.md says what it
    costs."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of parameters and activations; by default as the checkpoint is stored."""
    config: str | None = None
    """A preset, or one of our config.json files, for a checkpoint that does not say what it is."""
    chat_template: str | None = None
    """How chats are written: gemma, or a file with a Jinja template; by default the checkpoint's
    own template, else Gemma's format."""
    model_name: str | None = None
    """What the API calls the model; by default the last part of the path, or the name."""


def server_options(arguments: ServeArguments) -> ServerOptions:
    """Those of the HTTP side. Keys are in the environment (GRIFFIN_API_KEYS). Raises UserError: an
    option cannot be, or two do not go together."""
    least_of = {"slots": 1, "queue": 0, "prompts": 1, "cache": 0, "host_cache": 0}
    least_of |= {"adapting": 0, "max_adapters": 0, "adapter_rank": 0, "speculate_least": 0}
    least_of |= {"max_prompt": 1, "max_body": 1, "timeout": 0, "max_open": 1, "drain": 0}
    for option, least in least_of.items():
        given = getattr(arguments, option)
        if not least <= given < math.inf:  # nor is it nan
            name = option.replace("_", "-")
            raise UserError(f"--{name} {given}: expected {least} or more")
    named_paths(arguments.adapters)
    options = ServerOptions(
        max_body_mib=arguments.max_body,
        most_open=arguments.max_open,
        timeout_s=arguments.timeout,
        api_keys=api_keys(os.environ),
        open_metrics=arguments.open_metrics,
        log_prompts=arguments.log_prompts,
        sessions=None if arguments.sessions is None else Path(arguments.sessions),
        cors=arguments.cors,
        load_adapters=arguments.load_adapters,
        adapting=arguments.adapting,
        dynamic=arguments.dynamic,
    )
    if options.open_metrics and not options.api_keys:
        raise UserError("--open-metrics has no effect without keys (GRIFFIN_API_KEYS)")
    _check_adapting(arguments)
    _check_combinations(arguments)
    if arguments.log_prompts and not arguments.log_requests:
        raise UserError("--log-prompts adds to the log of requests: leave out --no-log-requests")
    return options


def _check_adapting(arguments: ServeArguments) -> None:
    if not arguments.adapting:
        if arguments.dynamic != CHOICES:
            raise UserError("--dynamic.* has no effect without --adapting")
        return
    if arguments.sessions is None:
        raise UserError("--adapting N needs --sessions DIR, where sessions are kept")
    if arguments.quantize is not None or arguments.mesh.tensor > 1:
        raise UserError("--adapting with --quantize or --mesh.tensor: leave one of them out")
    check_choices(arguments.dynamic)


def _check_combinations(arguments: ServeArguments) -> None:
    """What can be known before a model is loaded. Raises UserError that names the options."""
    has_adapters = bool(arguments.adapters or arguments.load_adapters)
    if arguments.mesh.tensor > 1:
        refused = {
            "--adapters": bool(arguments.adapters),
            "--load-adapters": arguments.load_adapters,
            "--speculate": arguments.speculate is not None,
            "--quantize": arguments.quantize is not None,
        }
        for option, is_given in refused.items():
            if is_given:
                raise UserError(f"{option} with --mesh.tensor: leave one of them out")
    if arguments.max_adapters and not has_adapters:
        raise UserError("--max-adapters has no effect without --adapters or --load-adapters")
    if arguments.adapter_rank and not (has_adapters or arguments.adapting):
        raise UserError(
            "--adapter-rank has no effect without --adapters, --load-adapters or --adapting"
        )
    if (arguments.speculate == "draft") != (arguments.draft is not None):
        raise UserError("--speculate draft and --draft PATH need each other")
    if arguments.speculate_least and arguments.speculate is None:
        raise UserError("--speculate-least has no effect without --speculate")
    folder = arguments.sessions
    if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
        raise UserError(f"--sessions {folder}: a file, expected a folder")
    for origin in arguments.cors:
        if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#]+|null", origin):
            raise UserError(
                f"--cors {origin}: expected an origin as browsers send it, such as "
                "https://chat.example or http://localhost:3000, without a path, or *"
            )
