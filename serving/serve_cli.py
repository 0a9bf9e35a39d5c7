# SPDX-License-Identifier: Apache-2.0
"""`griffin serve`: take the port, load and compile, serve until Ctrl-C or SIGTERM.

The port is taken first, so that one in use is known before minutes of loading, and so that
`GET /health` can say "loading" meanwhile.
"""

import dataclasses
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import tyro
import uvicorn

from checkpoints import session_file
from checkpoints.hub_names import title
from eval.dynamic.config import DynamicConfig
from recurrentgemma.errors import TemplateError, UserError, is_out_of_memory
from serving.engine.engine import Engine
from serving.engine.mesh_programs import tensor_mesh
from serving.engine.thread import EngineThread, Status
from serving.features.adaptation import CHOICES, PLACES_EACH, check_choices
from serving.features.adaptation import warm_up as warm_up_adaptation
from serving.features.adapters import bank_for, named_paths
from serving.features.constraints import Constraints
from serving.features.draft import DraftProposals
from serving.features.int8 import with_int8
from serving.features.prefix_cache import PrefixCache
from serving.features.proposals import NgramProposer
from serving.http.options import MAX_BODY_MIB, ServerOptions, api_keys
from serving.http.request_log import log_requests_to
from serving.http.server import create_app, curl_example
from serving.listening import listen, url_of
from serving.stopping import Stopping

if TYPE_CHECKING:
    from recurrentgemma.adapter_bank import AdapterBank
    from recurrentgemma.generation.lm import LanguageModel
    from recurrentgemma.griffin import Griffin
    from recurrentgemma.text.tokenizer import Tokenizer
    from serving.engine.speculation import Proposer

EXAMPLES = """Serve a model over OpenAI's completions and chat API until Ctrl-C.

examples:
  griffin serve runs/demo                                 at http://127.0.0.1:8000
  griffin serve google/recurrentgemma-2b-it --port 9000 --slots 32
  curl -N http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\
      -d '{"prompt": "O Romeo, ", "max_tokens": 64, "stream": true}'
  GRIFFIN_API_KEYS=secret griffin serve runs/demo         for those who have the key
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d '{"messages": [{"role": "user", "content": "Name three rivers."}]}'
"""

GIB = 2**30
_KEEP_ALIVE_S = 75  # of an idle connection; load balancers keep theirs for 60 s
_STOP_IN_S = 5.0  # what an open connection, and then the engine, may take to end after Ctrl-C


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


def main(argv: list[str]) -> int:
    """Serve. Raises UserError for a bad option or a checkpoint that cannot be loaded, OSError for
    a port that cannot be had."""
    arguments = tyro.cli(ServeArguments, prog="griffin serve", description=EXAMPLES, args=argv)
    return serve(arguments)


def serve(arguments: ServeArguments) -> int:
    """Serve until SIGINT or SIGTERM, then return 0 (1 when the engine has failed meanwhile)."""
    least_of = {"slots": 1, "queue": 0, "prompts": 1, "cache": 0, "host_cache": 0}
    least_of |= {"adapting": 0, "max_adapters": 0, "adapter_rank": 0, "speculate_least": 0}
    least_of |= {"max_prompt": 1, "max_body": 1, "timeout": 0, "max_open": 1, "drain": 0}
    for option, least in least_of.items():
        given = getattr(arguments, option)
        if not least <= given < math.inf:  # nor is it nan
            name = option.replace("_", "-")
            raise UserError(f"--{name} {given}: expected {least} or more")
    named_paths(arguments.adapters)
    model_name = arguments.model_name or title(arguments.path)
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
    with listen(arguments.host, arguments.port) as listener:
        url = url_of(arguments.host, listener.getsockname()[1])

        def build() -> Engine:
            import recurrentgemma as rg  # here: this is what takes long
            from recurrentgemma.text.chat import use_template

            began = time.monotonic()
            _say(f"loading {arguments.path}")
            lm = rg.load(arguments.path, arguments.config, dtype=arguments.dtype)
            tensor = arguments.mesh.tensor
            mesh = None if tensor == 1 else tensor_mesh(lm.config, tensor)
            if arguments.quantize == "int8":
                lm = with_int8(lm)
            if arguments.chat_template is not None:
                if lm.tokenizer is None:
                    raise UserError("--chat-template: this checkpoint has no tokenizer")
                use_template(lm.tokenizer, arguments.chat_template)
            elif lm.tokenizer is not None:
                _check_chats(lm.tokenizer, arguments.path)
            _say("compiling")
            engine = Engine(
                lm,
                slots=arguments.slots,
                max_prompt=arguments.max_prompt,
                constrained=True,
                constraints=_constraints(lm.tokenizer),
                rows=arguments.prompts,
                cache=_cache(arguments),
                model=model_name,
                bank=_bank(arguments, lm.model),
                mesh=mesh,
                proposer=_proposer(arguments, lm),
                least_tokens=arguments.speculate_least or None,
            )
            if engine.adapters is not None:
                engine.adapters.keep(PLACES_EACH * arguments.adapting)
                for name, path in named_paths(arguments.adapters).items():
                    engine.adapters.load(name, path)
            engine.warm_up()
            if arguments.adapting:
                warm_up_adaptation(lm, arguments.dynamic)
            if engine.speculation is not None:
                _say(engine.speculation.cost)
            if options.sessions is not None:
                session_file.weights_fingerprint(lm)  # of all parameters: not when one is saved
            _say(f"{model_name} is ready after {time.monotonic() - began:.1f} s")
            return engine

        def changed(status: Status) -> None:
            if status == "ready":
                was_ready.set()
                _say(f"serving at {url} (Ctrl-C stops it); try:\n  {curl_example(url)}")
            elif status == "failed" and was_ready.is_set():
                traceback.print_exception(thread.error)
                _say(f"the engine has failed: {url}/health answers 503 until this is restarted")
            elif status == "failed":
                server.should_exit = True  # there is nothing to serve

        was_ready = threading.Event()
        thread = EngineThread(build, max_waiting=arguments.queue, on_change=changed)
        if arguments.log_requests:
            log_requests_to(sys.stdout)
        app = create_app(thread, model_name=model_name, options=options)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=int(_STOP_IN_S),
            timeout_keep_alive=_KEEP_ALIVE_S,
            lifespan="off",
        )
        server = uvicorn.Server(config)
        stopping = Stopping(server, thread, drain_s=arguments.drain)
        server.handle_exit = stopping.signalled
        signal.signal(signal.SIGTERM, _interrupt)  # uvicorn raises it anew when it is done
        thread.start()
        try:
            server.run(sockets=[listener])
            stopped = stopping.drained
        except KeyboardInterrupt:
            stopped = True
        if stopped:
            for sig in (signal.SIGINT, signal.SIGTERM):
                signal.signal(sig, signal.SIG_IGN)  # it is ending already
            _say("stopped")
        if not thread.close(timeout_s=_STOP_IN_S):
            sys.stdout.flush()
            os._exit(0)  # a compilation cannot be interrupted, and nothing is lost with it
    if thread.error is not None and not was_ready.is_set():
        if is_out_of_memory(thread.error):
            raise UserError(
                f"the model and --slots {arguments.slots} do not fit into the device's memory: "
                "lower --slots, or take --dtype bfloat16 or a device with more"
            ) from thread.error
        raise thread.error
    return 0 if thread.error is None else 1


def _cache(arguments: ServeArguments) -> PrefixCache | None:
    """None where it could keep nothing: then no answer is read again for a chat's next turn."""
    device, host = int(arguments.cache * GIB), int(arguments.host_cache * GIB)
    return PrefixCache(device_bytes=device, host_bytes=host) if device or host else None


def _bank(arguments: ServeArguments, model: "Griffin") -> "AdapterBank | None":
    """Places for adapters, where any are asked for."""
    paths, loads = named_paths(arguments.adapters), arguments.load_adapters
    count = arguments.max_adapters or max(len(paths), 16 if loads else 0)
    learned = None
    if arguments.adapting:
        count, learned = count + PLACES_EACH * arguments.adapting, arguments.dynamic.lora
    if not count:
        return None
    rank = arguments.adapter_rank
    return bank_for(model, paths, count=count, rank=rank, any_layer=loads, learned=learned)


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


def _proposer(arguments: ServeArguments, lm: "LanguageModel") -> "Proposer | None":
    """What guesses tokens, where it is asked for."""
    if arguments.draft is None:
        return None if arguments.speculate is None else NgramProposer()
    import recurrentgemma as rg

    draft = rg.load(arguments.draft, dtype=arguments.dtype)
    return DraftProposals(draft, lm, arguments.slots)


def _constraints(tokenizer: "Tokenizer | None") -> Constraints | None:
    """Where the tokenizer can be held to a form."""
    try:
        return None if tokenizer is None else Constraints(tokenizer)
    except UserError as error:
        _say(f"no schemas, regular expressions or grammars: {error}")
        return None


def _check_chats(tokenizer: "Tokenizer", path: str) -> None:
    """Say that the chat template has a mistake before a client comes upon it. A checkpoint that
    knows no chats is no mistake."""
    from recurrentgemma.text.chat import chat_format

    try:
        chat_format(tokenizer).check()
    except TemplateError as error:
        _say(
            f"warning: {path}: {error}; chats are refused, with this reason and status "
            f"500, and completions are served: mend the template, or choose another with "
            f"--chat-template (gemma, or a file)"
        )
    except UserError:
        return


def _say(line: str) -> None:
    print(line, flush=True)


def _interrupt(sig: int, frame) -> NoReturn:
    raise KeyboardInterrupt
