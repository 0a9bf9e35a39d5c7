# SPDX-License-Identifier: Apache-2.0
"""The engine that a server's options ask for, loaded and compiled."""

import time
from typing import TYPE_CHECKING

from checkpoints import session_file
from checkpoints.hub_names import title
from recurrentgemma.errors import TemplateError, UserError
from serving.engine.engine import Engine
from serving.engine.mesh_programs import tensor_mesh
from serving.features.adaptation import PLACES_EACH
from serving.features.adaptation import warm_up as warm_up_adaptation
from serving.features.adapters import bank_for, named_paths
from serving.features.constraints import Constraints
from serving.features.draft import DraftProposals
from serving.features.int8 import with_int8
from serving.features.prefix_cache import PrefixCache
from serving.features.proposals import NgramProposer
from serving.serve_options import ServeArguments

if TYPE_CHECKING:
    from recurrentgemma.adapter_bank import AdapterBank
    from recurrentgemma.generation.lm import LanguageModel
    from recurrentgemma.griffin import Griffin
    from recurrentgemma.text.tokenizer import Tokenizer
    from serving.engine.speculation import Proposer

GIB = 2**30


def served_name(arguments: ServeArguments) -> str:
    """What the API calls the model."""
    return arguments.model_name or title(arguments.path)


def make_engine(arguments: ServeArguments) -> Engine:
    """An engine whose programs are compiled; lines on the way say how far it is. Takes as long as
    loading and compiling do. Raises UserError: the checkpoint, or an option with it, cannot be."""
    import recurrentgemma as rg  # here: this is what takes long
    from recurrentgemma.text.chat import use_template

    began = time.monotonic()
    say(f"loading {arguments.path}")
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
        check_chats(lm.tokenizer, arguments.path)
    say("compiling")
    engine = Engine(
        lm,
        slots=arguments.slots,
        max_prompt=arguments.max_prompt,
        constrained=True,
        constraints=constraints_of(lm.tokenizer),
        rows=arguments.prompts,
        cache=_cache(arguments),
        model=served_name(arguments),
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
        say(engine.speculation.cost)
    if arguments.sessions is not None:
        session_file.weights_fingerprint(lm)  # of all parameters: not when one is saved
    say(f"{served_name(arguments)} is ready after {time.monotonic() - began:.1f} s")
    return engine


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


def _proposer(arguments: ServeArguments, lm: "LanguageModel") -> "Proposer | None":
    """What guesses tokens, where it is asked for."""
    if arguments.draft is None:
        return None if arguments.speculate is None else NgramProposer()
    import recurrentgemma as rg

    draft = rg.load(arguments.draft, dtype=arguments.dtype)
    return DraftProposals(draft, lm, arguments.slots)


def constraints_of(tokenizer: "Tokenizer | None") -> Constraints | None:
    """Where the tokenizer can be held to a form."""
    try:
        return None if tokenizer is None else Constraints(tokenizer)
    except UserError as error:
        say(f"no schemas, regular expressions or grammars: {error}")
        return None


def check_chats(tokenizer: "Tokenizer", path: str) -> None:
    """Say that the chat template has a mistake before a client comes upon it. A checkpoint that
    knows no chats is no mistake."""
    from recurrentgemma.text.chat import chat_format

    try:
        chat_format(tokenizer).check()
    except TemplateError as error:
        say(
            f"warning: {path}: {error}; chats are refused, with this reason and status "
            f"500, and completions are served: mend the template, or choose another with "
            f"--chat-template (gemma, or a file)"
        )
    except UserError:
        return


def say(line: str) -> None:
    """To whoever has started the server."""
    print(line, flush=True)
