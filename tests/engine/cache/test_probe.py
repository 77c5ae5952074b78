"""How far a signal has moved, by hand."""

import math

import pytest
import torch

from batchgen.engine.cache.policy import Signal
from batchgen.engine.cache.probe import Probe
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.halves import Halves


def distances(signal, values, owner=(0,), computed=None):
    """Distances of each step.

    :param values: for each step, R rows of one token of one value.
    :param computed: for each step the rows that are computed; None: all, always.
    """
    probe, seen = Probe(signal, owner, Ranks(), Halves(Ranks(), len(owner))), []
    for step, rows in enumerate(values):
        seen.append(probe.measure(torch.tensor(rows).view(-1, 1, 1)))
        chosen = None if computed is None else computed[step]
        if chosen is None or chosen:
            probe.computed(None if chosen is None else torch.tensor(chosen))
    assert all(math.isnan(distance) for distance in seen[0]), "there is nothing to compare with"
    return seen[1:]


def test_both_rows_of_a_picture_share_a_distance_over_the_sums_of_both():
    """Changes of 1 in 10 and 9 in 10 are 0.5 together."""
    values = [[10.0, 10.0], [11.0, 19.0]]
    assert distances(Signal("modulated"), values, owner=(0, 0)) == [[0.5]]
    assert distances(Signal("modulated"), values, owner=(0, 1)) == [pytest.approx([0.1, 0.9])]


def test_the_reference_is_the_last_computed_step_or_the_step_before():
    values, computed = [[1.0], [2.0], [4.0], [8.0], [16.0]], [[0], [], [], [0], [0]]
    seen = distances(Signal("modulated"), values, computed=computed)
    assert seen == [[1.0], [3.0], [7.0], [1.0]]
    previous = Signal("modulated", reference="previous")
    assert distances(previous, values, computed=computed) == [[1.0]] * 4


def test_a_reference_is_renewed_only_where_the_row_was_computed():
    values = [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0]]
    computed = [[0, 1], [1], [0], [0, 1]]
    seen = distances(Signal("modulated"), values, owner=(0, 1), computed=computed)
    assert seen == [[1.0, 1.0], [3.0, 1.0], [1.0, 3.0]]


def test_a_signal_is_not_changed_by_being_measured():
    probe = Probe(Signal("modulated"), (0,), Ranks(), Halves(Ranks(), 1))
    first, second = torch.ones(1), torch.zeros(1)
    for values in (first, second):
        probe.measure(values.view(1, 1, 1))
        probe.computed(None)
    assert (first.item(), second.item()) == (1, 0)
