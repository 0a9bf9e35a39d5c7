# SPDX-License-Identifier: Apache-2.0
"""The map leads one way, the expert takes it, and an agent sees what is drawn."""

import numpy as np
import pytest

from recurrentgemma.errors import UserError
from training.recipes.forgetting.minihack_rooms import MOVES, Rooms, planes


@pytest.mark.parametrize(("columns", "side", "layout"), [(1, 2, 0), (3, 3, 1), (4, 4, 2)])
def test_the_expert_goes_through_every_room_in_order(columns, side, layout):
    rooms = Rooms(columns=columns, side=side, layout=layout)
    place, way = rooms.start, [rooms.start]
    for left in range(rooms.distance_HW[rooms.start], 0, -1):
        assert rooms.distance_HW[place] == left
        down, right = MOVES[rooms.expert_HW[place]]
        place = place[0] + down, place[1] + right
        assert rooms.ground_HW[place]
        way.append(place)
    assert place == rooms.staircase
    visited = [int(rooms.room_HW[at]) for at in way]
    assert visited == sorted(visited)
    assert set(visited) == set(range(rooms.count))
    assert rooms.far_start in way
    assert rooms.room_HW[rooms.far_start] == columns
    assert not rooms.far_HW[way[visited.index(columns) - 1]]


def test_every_place_leads_to_the_staircase_by_steps_of_one():
    rooms = Rooms(columns=3, side=4)
    for row, column in np.argwhere(rooms.ground_HW):
        down, right = MOVES[rooms.expert_HW[row, column]]
        if (row, column) != rooms.staircase:
            nearer = rooms.distance_HW[row + down, column + right]
            assert nearer == rooms.distance_HW[row, column] - 1
    assert (rooms.expert_HW == -1).sum() == (~rooms.ground_HW).sum()


def test_a_layout_is_its_number():
    assert Rooms(layout=3).lines == Rooms(layout=3).lines
    assert len({Rooms(layout=number).lines for number in range(5)}) > 1


def test_the_level_of_a_start():
    rooms = Rooms(columns=2, side=2)
    text = rooms.description(rooms.far_start)
    row, column = rooms.far_start
    assert f"BRANCH: ({column},{row},{column},{row}),(0,0,0,0)" in text
    assert "STAIR: (1,5),down" in text
    assert "premapped" in text
    drawn = text.split("\nENDMAP")[0].split("MAP\n")[1].splitlines()
    assert [line.replace(".", " ") for line in drawn] == [
        line.replace(".", " ").replace(">", " ") for line in rooms.lines
    ]


def test_what_is_seen():
    chars_BCC = np.array([[[ord(mark) for mark in line] for line in (" -|", ".@>", "  .")]])
    seen_BCCP = planes(chars_BCC)
    assert seen_BCCP.dtype == np.float32
    np.testing.assert_array_equal(seen_BCCP[0, ..., 0], [[0, 1, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(seen_BCCP[0, ..., 1], [[0, 0, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(seen_BCCP[0, ..., 2], [[0, 0, 0], [0, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize("choices", [{"columns": 0}, {"side": 1}, {"columns": 30}, {"side": 9}])
def test_rooms_that_a_level_has_no_room_for(choices):
    with pytest.raises(UserError, match="in a map of at most 75 x 19"):
        Rooms(**choices)


@pytest.mark.parametrize(
    ("columns", "side", "view", "conflicts"),
    [(5, 2, 5, 0), (3, 4, 7, 0), (3, 4, 5, 4), (3, 4, 1, 1)],
)
def test_views_of_both_rows(columns, side, view, conflicts):
    """Far enough around, the rows are told by what lies beyond their walls; with a view of one
    character, there is ground and the staircase."""
    assert Rooms(columns=columns, side=side).conflicts(view) == conflicts
