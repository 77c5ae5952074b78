"""From a group to a picture that is given up: no picture is left out, and none is made twice."""

import pytest

from batchgen.shard.escalation import Task, plan_tasks, too_large
from batchgen.shard.journal import Entry
from tests.support.specimens import pictures

GROUPS = [pictures(11)[at : at + 4] for at in (0, 4, 8)]  # of 4, 4 and 3
# The groups in flight: position, and number of pictures.
Death = list[tuple[int, int]]


def ladder(
    *deaths: Death,
    position: int = 0,
    groups: list[list[object]] = GROUPS,
    verdicts: tuple[Entry, ...] = (),
) -> list[Task]:
    flights = [[Entry("begin", at, count) for at, count in death] for death in deaths]
    return list(plan_tasks(groups, position, flights, verdicts))


def raised(at: int, count: int) -> Entry:
    return Entry("verdict", at, count, cause="exception", why=f"{count} at {at}")


def full(at: int, count: int) -> Entry:
    why = f"{count} at {at}"
    return Entry("verdict", at, count, width=16, height=32, cause="out of memory", why=why)


def seen(found: list[Task]) -> list[tuple[int, int, str]]:
    """Position, pictures, and how."""
    how = ["condemned" if one.cause else one.path + "!" * one.careful for one in found]
    return [(one.at, len(one.pictures), word) for one, word in zip(found, how, strict=True)]


def test_without_a_death_groups_are_made_together_two_in_flight() -> None:
    assert seen(ladder()) == [(0, 4, "normal"), (4, 4, "normal"), (8, 3, "normal")]


def test_one_death_makes_the_groups_that_were_in_flight_careful() -> None:
    found = ladder([(0, 4), (4, 4)])
    assert seen(found) == [(0, 4, "normal!"), (4, 4, "normal!"), (8, 3, "normal")]


def test_two_deaths_in_a_group_make_it_one_by_one() -> None:
    """The group before was in flight at one of them."""
    solo = [(at, 1, "solo!") for at in range(4, 8)]
    found = ladder([(0, 4), (4, 4)], [(4, 4)])
    assert seen(found) == [(0, 4, "normal!"), *solo, (8, 3, "normal")]


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
    """Only deaths at which it was alone in flight count towards giving it up."""
    groups: list[list[object]] = [[picture] for picture in pictures(3)]
    both: Death = [(0, 1), (1, 1)]
    one: Death = [(0, 1)]
    careful = [(0, 1, "normal!"), (1, 1, "normal!"), (2, 1, "normal")]
    assert seen(ladder(both, groups=groups)) == careful
    assert seen(ladder(both, both, groups=groups))[0] == (0, 1, "solo!")
    assert seen(ladder(both, one, groups=groups))[0] == (0, 1, "solo!")
    given_up = [(0, 1, "condemned"), (1, 1, "normal!")]
    assert seen(ladder(both, one, one, groups=groups))[:2] == given_up


def test_a_death_in_which_nothing_was_in_flight_blames_nobody() -> None:
    assert seen(ladder([], [])) == seen(ladder())


def test_an_exception_of_a_group_makes_it_one_by_one_and_no_other() -> None:
    retried = [(at, 1, "retry!") for at in range(4, 8)]
    found = ladder(verdicts=(raised(4, 4),))
    assert seen(found) == [(0, 4, "normal"), *retried, (8, 3, "normal")]


def test_an_exception_of_a_part_makes_its_whole_group_one_by_one() -> None:
    assert seen(ladder(verdicts=(raised(6, 2),)))[1:5] == [(at, 1, "retry!") for at in range(4, 8)]


def test_a_picture_that_raises_again_alone_is_recorded_with_its_message() -> None:
    """Its neighbours are made."""
    found = ladder(verdicts=(raised(4, 4), raised(5, 1)), position=5)
    assert seen(found)[:2] == [(5, 1, "condemned"), (6, 1, "retry!")]
    assert seen(found)[2:] == [(7, 1, "retry!"), (8, 3, "normal")]
    assert (found[0].cause, found[0].error, found[0].path) == ("exception", "1 at 5", "retry")


def test_a_group_of_one_gets_its_second_try_too() -> None:
    groups: list[list[object]] = [[one] for one in pictures(2)]
    assert seen(ladder(groups=groups, verdicts=(raised(0, 1),)))[0] == (0, 1, "retry!")
    twice = (raised(0, 1), raised(0, 1))
    assert seen(ladder(groups=groups, verdicts=twice))[0] == (0, 1, "condemned")


def test_a_group_that_was_too_large_stays_together_for_the_renderer_to_halve() -> None:
    verdicts = (full(4, 4), full(4, 2))
    assert seen(ladder(verdicts=verdicts)) == seen(ladder())
    assert list(too_large([raised(0, 4), *verdicts])) == [((16, 32), 4), ((16, 32), 2)]


def test_a_picture_that_does_not_fit_alone_is_recorded_and_its_group_made_one_by_one() -> None:
    found = ladder(verdicts=(full(4, 4), full(4, 2), full(5, 1)))
    outcomes = {4: "oom_split!", 5: "condemned", 6: "oom_split!", 7: "oom_split!"}
    assert seen(found)[1:5] == [(at, 1, outcome) for at, outcome in outcomes.items()]
    recorded = (found[2].cause, found[2].error, found[2].path)
    assert recorded == ("out of memory", "1 at 5", "oom_split")


def test_deaths_and_verdicts_do_not_add_up() -> None:
    """A picture that raised once alone, and was alone in flight at one death, is made again."""
    assert seen(ladder([(5, 1)], verdicts=(raised(5, 1),)))[2] == (5, 1, "retry!")


def test_the_order_of_verdicts_does_not_matter() -> None:
    """Attempts may overlap in time: a dead owner may have lived on."""
    said = (raised(4, 4), raised(5, 1), full(6, 1))
    assert seen(ladder(verdicts=said)) == seen(ladder(verdicts=said[::-1]))


DEATHS = [[], [[(4, 4)]], [[(4, 4)], [(4, 4), (8, 3)]], [[(0, 4)], [(0, 4)], [(2, 1)], [(2, 1)]]]


@pytest.mark.parametrize("position", range(12))
@pytest.mark.parametrize("deaths", DEATHS)
def test_every_picture_behind_the_position_is_made_once_in_plan_order(
    position: int, deaths: list[Death]
) -> None:
    found = ladder(*deaths, position=position)
    assert [one.key for task in found for one in task.pictures] == list(range(position, 11))
    assert [task.at for task in found] == [task.pictures[0].key for task in found]
