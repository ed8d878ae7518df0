"""The `sae-study` command: it parses, calls the library and prints.

Exit codes: 0 done, 1 the work failed, 2 misuse, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer

from search_spaces.errors import MachineError, MisuseError
from search_spaces.searches import SEARCHES
from service.cli import explain, inspect, run
from service.cli.interrupts import settle
from service.cli.printing import complain, out
from service.cli.streams import READER_GONE, finish, make_ready

app = typer.Typer(
    help="Where sparse autoencoders fail, and why.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # a fault of ours is told by Python's own traceback, without all local values
    context_settings={"terminal_width": max(min(out.width, 80) - 2, 18)},  # Click itself goes no lower than 50
)

COMMANDS: dict[str, Callable[..., None]] = {
    "spaces": inspect.spaces,
    "launch": run.launch,
    **{kind: run.search_command(search) for kind, search in SEARCHES.items()},
    "resume": run.resume,
    "stop": run.stop,
    "status": inspect.status,
    "list": inspect.studies,
    "rows": inspect.rows,
    "replicate": inspect.replicate,
    "regions": inspect.regions,
    "rate": inspect.rate,
    "report": inspect.report,
    "compare": inspect.compare,
    "diagnose": explain.diagnose,
}
"""The commands, in the order in which `--help` lists them."""
for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def _show_version(given: bool) -> None:
    if given:
        out.print(f"sae-study {version('sae-study')}")
        raise typer.Exit


@app.callback(help=app.info.help)
def _options(
    _version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)] = False,
) -> None: ...


_UsageError: Any = typer.BadParameter.__base__
"""Click's class, from the copy of Click that Typer uses."""


def main() -> None:
    """Run the command that the arguments name. Every expected error is one line on standard error."""
    make_ready()
    try:
        code = app(standalone_mode=False, prog_name="sae-study")
    except typer.Exit as ended:
        code = ended.exit_code
    except _UsageError as misuse:
        complain(f"{misuse.format_message()} See `sae-study --help`.")
        code = 2
    except MisuseError as misuse:
        complain(misuse)
        code = 2
    except (MachineError, OSError) as error:  # a machine, storage or file that fails during the work
        complain(error)
        code = 1
    except SystemExit as ended:  # Click's, after a shell's completion, or where the reader of `--help` has gone
        code = READER_GONE if ended.code else 0
    finally:
        settle()
    finish()
    sys.exit(code or 0)
