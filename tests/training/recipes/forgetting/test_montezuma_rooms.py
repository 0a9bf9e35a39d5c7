# SPDX-License-Identifier: Apache-2.0
"""Trails through rooms: the way, doors, and what an agent is shown of them."""

import pytest

from recurrentgemma.errors import UserError
from training.recipes.forgetting.montezuma import Situation, Start
from training.recipes.forgetting.montezuma_rooms import (
    ROOT,
    Archive,
    Trail,
    cell_of,
    explore,
    kept_archive,
)


def start(room, entered_from=-1, x=0, points=0):
    return Start(f"state {room} {x}", Situation(room, x, 0, 5, 0, points), entered_from)


ARCHIVE = Archive(
    [
        Trail(start(1), ROOT, (), False),
        Trail(start(1, x=40), 0, (3, 3), False),
        Trail(start(2, 1), 1, (3,), True),
        Trail(start(0, 1), 0, (4, 4), True),  # another way, that ends soon
        Trail(start(6, 2), 2, (5,), True),
        Trail(start(2, 6), 4, (4,), True),  # back
    ]
)


def test_the_way_and_its_doors():
    assert ARCHIVE.path(5) == [0, 1, 2, 4, 5]
    assert ARCHIVE.way() == [1, 2, 6]
    assert ARCHIVE.far(2) == [2, 6]
    assert ARCHIVE.far(4) == []
    assert [one.entered_from for one in ARCHIVE.starts([2, 6])] == [1, 2]
    assert Archive(ARCHIVE.trails[:2]).way() == [1]
    assert cell_of(start(1, x=17).situation) == cell_of(start(1, x=31).situation)
    assert cell_of(start(1, x=17).situation) != cell_of(start(1, x=32).situation)


def test_an_archive_is_kept(tmp_path):
    path = tmp_path / "folder" / "archive.json"
    assert kept_archive(path, lambda: ARCHIVE) == ARCHIVE
    again = kept_archive(path, lambda: pytest.fail("it is there"))
    assert list(again.trails) == ARCHIVE.trails
    path.write_text("[[1]]")
    with pytest.raises(UserError, match="is damaged"):
        kept_archive(path, lambda: ARCHIVE)


def test_a_search_comes_to_the_same_places_again():
    pytest.importorskip("ale_py", reason="ale-py is not installed here: griffin-lm[rl]")
    archive = explore(steps=600, seed=0)
    assert len(archive.trails) > 5
    assert len({cell_of(one.start.situation) for one in archive.trails}) == len(archive.trails)
    numbers = archive.path(len(archive.trails) - 1)
    assert numbers[0] == 0
    assert archive.trails[0].parent == ROOT
    assert archive.demonstrations([1], 2).action_N.shape == (0,)  # nothing was achieved yet
    shown = Archive([one._replace(achieved=True) for one in archive.trails])
    demonstrations = shown.demonstrations([1], 2)
    last = sum(len(archive.trails[one].actions) for one in numbers)
    assert (demonstrations.episode_N == 0).sum() == last
    assert demonstrations.observation_N.shape[1:] == (84, 84, 4)
