# SPDX-License-Identifier: Apache-2.0
"""How a source of pairs is written."""

import pytest

from recurrentgemma.errors import UserError
from training.data.pairs import open_pairs


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("folders:x", "did you mean 'folder'"),
        ("folder:x?field=a", "'field=a' is no option of folder; write folder:DIRECTORY"),
        ("no/such/place", "names no kind of source; write one of webdataset:GLOB"),
    ],
)
def test_specs(spec: str, problem: str):
    with pytest.raises(UserError) as error:
        open_pairs(spec)
    assert problem in str(error.value)
