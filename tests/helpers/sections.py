"""Sections of a configuration, for tests that put several together."""

from __future__ import annotations


def section(name: str, **keys: object) -> str:
    """Write `[daemon:NAME]`; `_` in a key after `option` stands for the dot: `option_code = 1`.

    Without `type` it is a program where there is a `command`, else a worker.
    """
    kind = "program" if "command" in keys else "worker"
    lines = [f"[daemon:{name}]"]
    for key, value in ({"type": kind} | keys).items():
        lines.append(f"{key.replace('option_', 'option.')} = {value}")
    return "\n".join(lines) + "\n\n"
