"""`supervisor completion SHELL`: the shell's part of completion.

The script asks this very program at each Tab, so the names of jobs are those of the running
supervisor (`console.complete_names`).
"""

from __future__ import annotations

from typing import Final

import click

from supervisor.console import conf, examples

_VARIABLE: Final = "_SUPERVISOR_COMPLETE"


@click.command(
    short_help="Print the completion for a shell.",
    epilog=examples(
        'eval "$(supervisor completion bash)"          in ~/.bashrc',
        'eval "$(supervisor completion zsh)"           in ~/.zshrc',
        "supervisor completion fish | source           in config.fish",
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@conf
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that has a shell complete commands, options and the names of jobs."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these three shells"
    root = context.find_root().command
    click.echo(kind(root, {}, "supervisor", _VARIABLE).source())
