"""The ladder from a group to a condemned picture; nothing is left out, and nothing is made twice."""

import pytest
from specimens import pictures

from batchgen.partial import Entry
from batchgen.tasks import Task, tasks

GROUPS = [pictures(11)[at : at + 4] for at in (0, 4, 8)]  # of 4, 4 and 3
Death = list[tuple[int, int]]  # the groups in flight: position, pictures


def ladder(*deaths: Death, position: int = 0, groups: list[list[object]] = GROUPS) -> list[Task]:  # type: ignore[assignment]
    flights = [[Entry("begin", at, count) for at, count in death] for death in deaths]
    return list(tasks(groups, position, flights))  # type: ignore[arg-type]


def seen(found: list[Task]) -> list[tuple[int, int, str]]:
    """Position, pictures, and how."""
    return [(task.at, len(task.pictures), "condemned" if task.condemned else task.path + "!" * task.careful) for task in found]


def test_without_a_death_groups_are_made_together_two_in_flight() -> None:
    assert seen(ladder()) == [(0, 4, "normal"), (4, 4, "normal"), (8, 3, "normal")]


def test_one_death_makes_the_groups_that_were_in_flight_careful() -> None:
    assert seen(ladder([(0, 4), (4, 4)])) == [(0, 4, "normal!"), (4, 4, "normal!"), (8, 3, "normal")]


def test_two_deaths_in_a_group_make_it_one_by_one() -> None:
    """Its neighbour was in flight at the first alone."""
    found = ladder([(0, 4), (4, 4)], [(4, 4)])
    assert seen(found) == [(0, 4, "normal!"), *((at, 1, "solo!") for at in range(4, 8)), (8, 3, "normal")]


def test_deaths_anywhere_inside_a_group_count_for_the_group() -> None:
    assert seen(ladder([(5, 1)], [(7, 1)]))[1:3] == [(4, 1, "solo!"), (5, 1, "solo!")]
    assert seen(ladder([(3, 1)], [(8, 1)]))[1] == (4, 4, "normal")


def test_a_picture_that_died_alone_once_gets_another_chance() -> None:
    assert (5, 1, "solo!") in seen(ladder([(4, 4)], [(4, 4)], [(5, 1)]))


def test_a_picture_that_died_alone_twice_is_condemned_and_its_neighbours_are_not() -> None:
    found = ladder([(4, 4)], [(4, 4)], [(5, 1)], [(5, 1)], position=5)
    assert seen(found) == [(5, 1, "condemned"), (6, 1, "solo!"), (7, 1, "solo!"), (8, 3, "normal")]


def test_two_pictures_of_a_group_can_be_condemned_one_after_the_other() -> None:
    found = ladder([(4, 4)], [(4, 4)], [(5, 1)], [(5, 1)], [(7, 1)], [(7, 1)], position=5)
    assert seen(found)[:3] == [(5, 1, "condemned"), (6, 1, "solo!"), (7, 1, "condemned")]


def test_from_a_position_inside_a_group_its_rest_is_made_one_by_one() -> None:
    assert seen(ladder(position=6)) == [(6, 1, "solo!"), (7, 1, "solo!"), (8, 3, "normal")]


def test_the_last_group_may_be_short() -> None:
    assert seen(ladder([(8, 3)], [(8, 3)], position=9)) == [(9, 1, "solo!"), (10, 1, "solo!")]


def test_with_groups_of_one_a_picture_needs_the_same_evidence() -> None:
    """In flight with its neighbour, then alone and careful, then alone twice: only deaths alone condemn."""
    groups = [[picture] for picture in pictures(3)]
    both: Death = [(0, 1), (1, 1)]
    assert seen(ladder(both, groups=groups)) == [(0, 1, "normal!"), (1, 1, "normal!"), (2, 1, "normal")]  # type: ignore[arg-type]
    assert seen(ladder(both, both, groups=groups))[0] == (0, 1, "solo!")  # type: ignore[arg-type]
    assert seen(ladder(both, [(0, 1)], groups=groups))[0] == (0, 1, "solo!")  # type: ignore[arg-type]
    assert seen(ladder(both, [(0, 1)], [(0, 1)], groups=groups))[:2] == [(0, 1, "condemned"), (1, 1, "normal!")]  # type: ignore[arg-type]


def test_a_death_in_which_nothing_was_in_flight_blames_nobody() -> None:
    assert seen(ladder([], [])) == seen(ladder())


@pytest.mark.parametrize("position", range(12))
@pytest.mark.parametrize("deaths", [[], [[(4, 4)]], [[(4, 4)], [(4, 4), (8, 3)]], [[(0, 4)], [(0, 4)], [(2, 1)], [(2, 1)]]])
def test_every_picture_behind_the_position_is_made_once_in_plan_order(position: int, deaths: list[Death]) -> None:
    found = ladder(*deaths, position=position)
    assert [one.key for task in found for one in task.pictures] == list(range(position, 11))
    assert [task.at for task in found] == [task.pictures[0].key for task in found]
