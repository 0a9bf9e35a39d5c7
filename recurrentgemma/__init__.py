# SPDX-License-Identifier: Apache-2.0
"""The model of griffin-lm: tokens to logits, through a state of fixed size.

    import recurrentgemma as rg

Names are imported when first used (PEP 562), so that `griffin --help`, or a script that only wants
a tokenizer, does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING

from griffin_lm import __version__ as __version__
from griffin_lm import require_ours

require_ours("kernels")

if TYPE_CHECKING:
    from recurrentgemma.config import GriffinConfig as GriffinConfig
    from recurrentgemma.counts import state_bytes as state_bytes
    from recurrentgemma.generation.lm import LanguageModel as LanguageModel
    from recurrentgemma.generation.lm import load as load
    from recurrentgemma.generation.sampling import Sampling as Sampling
    from recurrentgemma.generation.session import Session as Session
    from recurrentgemma.griffin import Griffin as Griffin
    from recurrentgemma.presets import griffin_1b as griffin_1b
    from recurrentgemma.presets import griffin_3b as griffin_3b
    from recurrentgemma.presets import griffin_7b as griffin_7b
    from recurrentgemma.presets import griffin_14b as griffin_14b
    from recurrentgemma.presets import griffin_100m as griffin_100m
    from recurrentgemma.presets import griffin_200m as griffin_200m
    from recurrentgemma.presets import griffin_400m as griffin_400m
    from recurrentgemma.presets import hawk_1b as hawk_1b
    from recurrentgemma.presets import hawk_3b as hawk_3b
    from recurrentgemma.presets import hawk_7b as hawk_7b
    from recurrentgemma.presets import hawk_100m as hawk_100m
    from recurrentgemma.presets import hawk_200m as hawk_200m
    from recurrentgemma.presets import hawk_400m as hawk_400m
    from recurrentgemma.presets import mqa_1b as mqa_1b
    from recurrentgemma.presets import mqa_3b as mqa_3b
    from recurrentgemma.presets import mqa_7b as mqa_7b
    from recurrentgemma.presets import mqa_100m as mqa_100m
    from recurrentgemma.presets import mqa_200m as mqa_200m
    from recurrentgemma.presets import mqa_400m as mqa_400m
    from recurrentgemma.presets import preset as preset
    from recurrentgemma.presets import recurrentgemma_2b as recurrentgemma_2b
    from recurrentgemma.presets import recurrentgemma_9b as recurrentgemma_9b
    from recurrentgemma.presets import tiny as tiny
    from recurrentgemma.state import init_state as init_state
    from recurrentgemma.state import insert_slot as insert_slot
    from recurrentgemma.state import take_slot as take_slot

# Module -> the public names that it defines.
PUBLIC = {
    "config": "GriffinConfig",
    "counts": "state_bytes",
    "griffin": "Griffin",
    "generation.lm": "LanguageModel load",
    "generation.sampling": "Sampling",
    "generation.session": "Session",
    "presets": (
        "griffin_100m griffin_200m griffin_400m griffin_1b griffin_3b griffin_7b griffin_14b "
        "hawk_100m hawk_200m hawk_400m hawk_1b hawk_3b hawk_7b "
        "mqa_100m mqa_200m mqa_400m mqa_1b mqa_3b mqa_7b "
        "recurrentgemma_2b recurrentgemma_9b tiny preset"
    ),
    "state": "init_state insert_slot take_slot",
}
_HOME = {name: module for module, names in PUBLIC.items() for name in names.split()}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"recurrentgemma has no public name {name!r}; it has {sorted(_HOME)}")
    value = getattr(importlib.import_module(f"recurrentgemma.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
