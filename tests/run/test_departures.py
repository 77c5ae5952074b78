"""The text of an `.end` file is read as what was written, and written as 0.1 wrote it."""

import pytest

from batchgen.errors import PlanChanged, SickDevice
from batchgen.run.departures import Departure, LeaveCause

TEXTS = {
    "SIGUSR2": Departure(LeaveCause.SIGUSR2),
    "deadline": Departure(LeaveCause.DEADLINE),
    "stop flag: failure budget": Departure(LeaveCause.STOP_FLAG, "failure budget"),
    "all shards are done": Departure(LeaveCause.ALL_DONE),
    "nothing free: others work on the rest": Departure(LeaveCause.NOTHING_FREE),
    "SickDevice: node1.cuda0: 3 groups": Departure(LeaveCause.SICK_DEVICE, "node1.cuda0: 3 groups"),
    "disk full": Departure(LeaveCause.DISK_FULL),
    "every worker has left": Departure(LeaveCause.WORKERS_LEFT),
    "node1.cuda0 is listed as sick": Departure(LeaveCause.ERROR, "node1.cuda0 is listed as sick"),
    "PlanChanged: a: b": Departure(LeaveCause.ERROR, "PlanChanged: a: b"),
}


@pytest.mark.parametrize(("text", "departure"), TEXTS.items(), ids=list(TEXTS))
def test_a_departure_is_read_from_its_text_and_written_as_it(
    text: str, departure: Departure
) -> None:
    assert Departure.parse(text) == departure
    assert str(departure) == text


def test_an_error_leaves_its_class_and_its_message() -> None:
    assert str(Departure.of_error(PlanChanged("the manifest"))) == "PlanChanged: the manifest"
    assert Departure.of_error(SickDevice("node1")).cause == LeaveCause.SICK_DEVICE


def test_only_signals_and_the_deadline_tell_a_process_to_leave() -> None:
    told = {cause for cause in LeaveCause if Departure(cause).was_told}
    assert {cause.value for cause in told} == {"SIGTERM", "SIGUSR2", "SIGINT", "deadline"}
