"""The command `sae-study`."""

from sae_study import exit_if_shadowed
from service.cli import interrupts, streams

__all__ = ["main"]


def main() -> None:
    """Entry point. It listens for signals before it imports the libraries, which takes longer than many a command."""
    streams.take_closed_numbers()
    interrupts.listen()
    exit_if_shadowed()
    from service.cli.app import main

    main()
