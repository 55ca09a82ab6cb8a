"""Modules that the master preloads, with which its shortest times do not decide a test.

A fast stop leaves a process one second, and between its stacks and its kill lies a fifth of one, by
design: whoever stands still for so long is killed before he has shown what he does. `MODULES` are
put beside the configuration; the settings name one of them. They change a time, and nothing else.
"""

from __future__ import annotations

FAST = {"preload": "patient_fast"}
"""A fast stop leaves minutes to what is in flight."""

STACKS_AT_STOP = {"preload": "patient_stacks"}
"""A stop shows the stacks of whoever is not gone after a second, and has its time from then on."""

KILL_IF_SHOWN = {"preload": "patient_kill"}
"""A kill is no kill, and repeated a second later, until the test has opened the gate "shown"."""

MODULES = {
    "patient_fast": """
        from supervisor import states
        from workers import lifeline

        states.FAST_S = lifeline.FAST_S = 300.0
    """,
    "patient_stacks": """
        from supervisor import states

        states.DUMP_BEFORE_KILL_S = 86400.0
    """,
    "patient_kill": """
        from ledger import is_open
        from supervisor import orders

        kill = orders.kill

        def kill_if_shown(seat):
            if is_open("shown"):
                kill(seat)

        orders.kill = kill_if_shown
    """,
}
