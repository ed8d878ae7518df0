"""The command `sae-study`."""

from service.cli import interrupts, streams

__all__ = ["main"]


def main() -> None:
    """Entry point. It listens for signals before it imports the libraries, which takes longer than many a command."""
    streams.make_ready()
    interrupts.listen()
    from service.cli.app import main

    main()
