"""The command `sae-study`."""

from service.cli.app import main

__all__ = ["main"]
