# SPDX-License-Identifier: Apache-2.0
"""Each kind of source says which options it has."""

import re

from training.data.pairs.pair import KINDS, OPTIONS


def test_forms_name_their_options():
    for kind, form in KINDS.items():
        assert form.startswith(f"{kind}:")
        assert sorted(set(re.findall(r"[?&](\w+)=", form))) == sorted(OPTIONS[kind])
