"""What all commands of the line share: the file they mean, the options, how they print.

Data goes to stdout; hints and errors, one clear line each, to stderr. Used by `cli`,
`queue_commands` and `dead_commands`. Imports that not every command needs stand inside the
functions; `cli` says why.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click

from supervisor.client import Client
from supervisor.errors import SupervisorError, UsageError, configuration_fault
from supervisor.location import Location, locate

if TYPE_CHECKING:
    # Only for the reader: click loads it when a shell asks.
    from click.shell_completion import CompletionItem

    # And these for nobody else, at all: see `shapes`.
    from supervisor import shapes

Command = TypeVar("Command", bound=Callable[..., Any])

_AT_A_TAB_S: Final = 1.0
_DEFAULT_PATHS: Final = (Path("etc/workers.ini"), Path("/etc/workers.ini"))


@dataclass(slots=True)
class Invocation:
    """What one call of the command line knows: the file that was named, if one was."""

    named: Path | None = None

    @property
    def path(self) -> Path:
        """Give the configuration: --conf, $SUPERVISOR_CONF, or the first default that exists."""
        if self.named is not None:
            return self.named
        if from_environment := os.environ.get("SUPERVISOR_CONF"):
            return Path(from_environment)
        for path in _DEFAULT_PATHS:
            if path.is_file():
                return path
        places = " or ".join(map(str, _DEFAULT_PATHS))
        raise configuration_fault(
            _DEFAULT_PATHS[0],
            f"no configuration at {places}; name one with --conf PATH, "
            "or write one to begin with: supervisor init DIR",
        )

    @property
    def suffix(self) -> str:
        """Give what a suggested command needs to mean the same supervisor."""
        return f" --conf {self.named}" if self.named is not None else ""

    def location(self) -> Location:
        """Read where the supervisor of the configuration is found."""
        return locate(self.path)

    def client(self) -> Client:
        """Connect to the running supervisor. Raises: NotRunning, saying how to start one."""
        return Client(self.location(), hint=self.start_hint())

    def start_hint(self) -> str:
        """Give the words that end the message "is not running"."""
        return f"; start it: supervisor start{self.suffix}"


class Group(click.Group):
    """A group of commands that knows the names of those still to come.

    `elsewhere` names the module of ours where a command is, which is loaded when it is called:
    all of them together cost a health check a tenth of its time. `instead` gives, for the words of
    other programs, what does the same here.
    """

    def __init__(
        self,
        *,
        later: Iterable[str] = (),
        order: Iterable[str] = (),
        elsewhere: Mapping[str, str] | None = None,
        instead: Mapping[str, str] | None = None,
        **attributes: Any,  # noqa: ANN401  # click's own, passed on
    ) -> None:
        super().__init__(**attributes)
        self.later = frozenset(later)
        self.order = tuple(order)
        self._elsewhere = dict(elsewhere or {})
        self.instead = dict(instead or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names for --help: in the order given, if one was."""
        return list(self.order) or super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Find a command by its name, None when there is none."""
        module = self._elsewhere.pop(cmd_name, None)
        if module is not None:
            self.add_command(getattr(import_module(f"supervisor.{module}"), cmd_name))
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of the words; one of a later release is not just unknown."""
        if args and args[0] in self.later:
            raise click.UsageError(f"{args[0]!r} is not in this release", ctx)
        if args and args[0] in self.instead:
            ours = f"{ctx.command_path} {self.instead[args[0]]}"
            raise click.UsageError(f"no command {args[0]!r}; here it is `{ours}`", ctx)
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            # Its own hint knows only the commands whose modules are loaded.
            from supervisor.values import nearest

            near = nearest(args[0], self.list_commands(ctx))
            if near is None or args[0].startswith("-"):
                raise
            raise click.UsageError(f"no command {args[0]!r}; did you mean {near}?", ctx) from None


def _remember(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.find_root().ensure_object(Invocation).named = Path(value)


def conf(command: Command) -> Command:
    """Let a command take --conf; it counts before and behind the command's name alike."""
    return click.option(
        "--conf",
        "-c",
        metavar="PATH",
        expose_value=False,
        callback=_remember,
        help="The configuration.  [default: $SUPERVISOR_CONF, etc/workers.ini, /etc/workers.ini]",
    )(command)


def complete_names(
    context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Offer the jobs of the running supervisor that begin so; behind a colon their processes.

    When none answers quickly there are none, without a word: somebody has pressed Tab.
    """
    from click.shell_completion import CompletionItem

    invocation = context.find_root().ensure_object(Invocation)
    try:
        with invocation.client() as client:
            answer = client.call("status", limit_s=_AT_A_TAB_S, names=[])
    except (SupervisorError, OSError):
        return []
    rows = cast("shapes.Status", answer)["processes"]
    found = dict.fromkeys(row["name"] if ":" in begun else row["job"] for row in rows)
    return [CompletionItem(name) for name in found if name.startswith(begun)]


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
yes = click.option("--yes", "-y", is_flag=True, help="Do not ask, on a terminal.")
names_argument = click.argument(
    "names", metavar="[NAME]...", nargs=-1, shell_complete=complete_names
)
needed_names_argument = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_names
)
pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def examples(*lines: str, title: str = "") -> str:
    """Give the end of a command's help: lines to copy, as they stand."""
    heading = title or ("Examples" if len(lines) > 1 else "Example")
    # The backspace is click's word for "do not wrap this paragraph".
    return "\b\n" + "\n".join([f"{heading}:", *(f"  {line}" for line in lines)])


def duration(text: str | None, option: str) -> float | None:
    """Read the time span of an option, in seconds. Raises: UsageError."""
    if text is None:
        return None
    from supervisor import values

    try:
        return values.duration(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def confirmed(question: str) -> None:
    """Ask on a terminal before something is lost; a script has said what it wants.

    Raises: SupervisorError when the answer is no.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        return
    if not click.confirm(question, err=True):
        raise SupervisorError("nothing was changed")


def print_status(
    found: shapes.Status, invocation: Invocation, *, partial: bool = False, check: bool = False
) -> None:
    """Print `status`, or its one line with `check`, and which command to go on with."""
    from supervisor import render

    if check:
        click.echo(render.check_line(found, partial=partial))
        return
    colour, width = terminal()
    click.echo(render.status_screen(found, partial=partial, colour=colour, width=width))
    print_next(render.next_command(found), invocation)


def print_next(command: str | None, invocation: Invocation) -> None:
    """Print which command to go on with, if there is one."""
    if command is not None:
        click.echo(f"Next: {command}{invocation.suffix}", err=True)


def terminal() -> tuple[bool, int | None]:
    """Tell whether the output takes colours, and its width; a pipe has neither."""
    if not sys.stdout.isatty():
        return False, None
    # Source: no-color.org; terminfo(5) for the terminal that can do nothing.
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return colour, os.get_terminal_size(sys.stdout.fileno()).columns or None


def print_done(rows: Sequence[shapes.ProcessStatus], word: str) -> None:
    """Print what was done to processes, or that there was none to do it to."""
    from supervisor import render

    print_lines(render.done_line(row, word) for row in rows)
    if not rows:
        hint = "a job without processes gets some with `supervisor scale NAME=N`"
        click.echo(f"nothing was {word}; {hint}", err=True)


def print_json(value: object) -> None:
    """Print one document for programs."""
    click.echo(json.dumps(value, indent=2))


def print_table(lines: Iterable[str]) -> None:
    """Print the lines of a table, each in one line of the terminal, if it is one."""
    from supervisor.columns import cut

    _, width = terminal()
    print_lines(cut(line, width) for line in lines)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines for people."""
    for line in lines:
        click.echo(line)
