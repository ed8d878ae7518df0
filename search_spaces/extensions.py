"""The modules of users that register variants, metrics or verdicts: whoever trains replicates must import them too."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

from search_spaces.errors import MisuseError

_MODULES: dict[str, None] = {}


def calling_module() -> str:
    """The module that calls the function which calls this one."""
    return str(sys._getframe(2).f_globals["__name__"])


def note_extension(module: str) -> None:
    """Remember a module that registers something as it is imported."""
    _MODULES[module] = None


def extensions() -> list[str]:
    """The modules noted so far, in order. MisuseError where one is a script: another process cannot import it."""
    if "__main__" in _MODULES:
        raise MisuseError(
            "a variant, metric or verdict is registered by the script itself, which workers cannot import. Move it to a file of "
            "its own and import that."
        )
    return list(_MODULES)


def import_extensions(modules: Iterable[str]) -> None:
    """Import what another process had registered; MisuseError where a module is not found here."""
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            raise MisuseError(
                f"extension {module!r} cannot be imported here ({error}). Put its folder on PYTHONPATH, on every node of a cluster."
            ) from None
