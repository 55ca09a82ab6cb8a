"""How an error reaches the user: one clear line each on stderr, whatever characters it holds."""

from __future__ import annotations

import sys


def complain(message: str, *, prefix: str = "supervisor: ") -> None:
    """Print an error, a line or more of it, with control characters escaped."""
    # Here: it compiles patterns that a command without an error can do without.
    from supervisor.lines import escape

    for line in message.splitlines():
        sys.stderr.write(f"{prefix}{escape(line)}\n")
