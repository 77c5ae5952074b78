"""The command line: it parses, calls and prints.

    verbs.py     the program: all verbs, `main`
    copying.py   export, push
    looking.py   doctor, status, list, logs, records, report, verify
    making.py    plan, calibrate, submit
    continuing.py   resume, extend, remake, cancel
    telling.py   what people are told; errors and exit codes
    options.py   what several verbs take

A room imports only rooms below it. Each verb imports what it needs when it is called, so that
`batchgen --help` answers at once.
"""

from batchgen.cli.verbs import app, main

__all__ = ["app", "main"]
