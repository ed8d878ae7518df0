"""The engines by name, and what one must offer.

An engine trains many autoencoders, then many SAEs, one replicate a lane. All engines of a family give the same
row for the same replicate; a study has one family.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from search_spaces.errors import MisuseError
from study.engines.contract import Engine

ENGINES = ("auto", "reference", "compiled", "torch")


def engine_named(name: str) -> Engine:
    """The engine of that name; `auto` is `compiled`. MisuseError for another name, and where PyTorch is not installed."""
    if name not in ENGINES:
        raise MisuseError(f"engine={name!r} is unknown. Engines: {', '.join(ENGINES)}.")
    if name == "torch" and find_spec("torch") is None:
        raise MisuseError("engine='torch' needs PyTorch, which is not installed. `pip install 'sae-study[torch]'`, or use auto.")
    module, kind = _CLASSES["compiled" if name == "auto" else name]
    return getattr(import_module(module), kind)()


_CLASSES = {
    "reference": ("study.engines.reference", "ReferenceEngine"),
    "compiled": ("study.engines.compiled", "CompiledEngine"),
    "torch": ("study.engines.torch_engine", "TorchEngine"),
}
"""Imported when they are first asked for: numba and torch take seconds."""
