"""Where everything can be had, a skip is a failure: it would hide that nothing was tested.

That is in CI as root (`CI=true`), where whatever a test needs can be installed or made. What no
install step can bring (another kernel, another place of Python) is said with `MachineLacks`, and
remains a skip there; pytest's summary lists those.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest


class MachineLacks(pytest.skip.Exception):
    """Skips a test that this very machine cannot run, whatever is installed."""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Iterator[Any]:
    """Turn a skip where everything can be had into a failure. A hook of pytest's."""
    report: pytest.TestReport = yield
    reason = call.excinfo.value if call.excinfo is not None else None
    skipped = isinstance(reason, pytest.skip.Exception) and not isinstance(reason, MachineLacks)
    if skipped and os.environ.get("CI") == "true" and os.geteuid() == 0:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI as root, where everything can be had: {reason}"
    return report
