"""Which cache setting this model, job and manifest can take: tried on a sample, before the run.

    show.py       what `calibrate` prints at its end
    report.py     the table, calibration.json, and the job file with the choice
    plot.py       fidelity against speed, as SVG and PNG
    shapes.py     lines, circles, words and axes of a plot
    making.py     the runs of the sample are made, here or on a cluster
    schedules.py  schedules are found from two runs, and become settings
    search.py     the steps to compute, from inner products of velocities
    choice.py     the quickest setting that keeps the floor
    compare.py    what one setting did to the sample: fidelity, steps, seconds
    trials.py     the calibration's folder; the settings that are tried, as jobs
    measure_pace.py   a few groups for `plan --measure`, which then knows this machine's pace
    measuring_folder.py   their temporary folder, which no kill leaves behind for long
    sample.py     a seeded, stratified sample of the manifest

A room imports only rooms below it.

Every setting is tried by an ordinary run of the sample: it is submitted, killed and continued like
any other, here or on a cluster. What is found holds for pictures like those of the manifest, with
this model and job; it says nothing about others.

Schedules are first found, from pictures that the sample does not have, and then tried like every
other setting. On a cluster that takes three commands: the runs that find them are waited for.
"""

from batchgen.calibration.choice import Choice, Floor, choose
from batchgen.calibration.compare import Measured, measure
from batchgen.calibration.making import Maker, Unmade, try_settings
from batchgen.calibration.measure_pace import Measuring, measure_pace, refuse_measuring
from batchgen.calibration.report import Report, write_report
from batchgen.calibration.sample import draw_others, draw_sample, sample_manifest
from batchgen.calibration.schedules import SHARES, Found, Search
from batchgen.calibration.show import show_calibration
from batchgen.calibration.trials import Grid, Trial, begin, grid_of

__all__ = [
    "SHARES",
    "Choice",
    "Floor",
    "Found",
    "Grid",
    "Maker",
    "Measured",
    "Measuring",
    "Report",
    "Search",
    "Trial",
    "Unmade",
    "begin",
    "choose",
    "draw_others",
    "draw_sample",
    "grid_of",
    "measure",
    "measure_pace",
    "refuse_measuring",
    "sample_manifest",
    "show_calibration",
    "try_settings",
    "write_report",
]
