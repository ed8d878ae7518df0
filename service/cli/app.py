"""The `sae-study` command: it parses, calls the library and prints.

Exit codes: 0 done, 1 the work failed, 2 misuse, 130 interrupted.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import typer

from search_spaces.errors import MachineError, MisuseError
from search_spaces.searches import SEARCHES
from service.cli import explain, inspect, run, streams
from service.cli.printing import complain, out
from service.cli.progress import INTERRUPTED

app = typer.Typer(
    add_completion=False,
    help="Where sparse autoencoders fail, and why.",
    rich_markup_mode=None,
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

_UsageError: Any = typer.BadParameter.__base__
"""Click's class, from the copy of Click that Typer uses."""


def main() -> None:
    """Entry point: every expected error is one line on standard error. SIGTERM, which clusters send, is treated as Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    streams.make_ready()
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
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except SystemExit:  # Click's, where the reader of `--help` has gone
        code = streams.READER_GONE
    streams.finish()
    if code == INTERRUPTED:  # exit at once: the shutdown of Python and Ray would keep the user waiting
        os._exit(code)
    sys.exit(code or 0)
