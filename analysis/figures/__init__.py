"""Figures. Matplotlib is imported here first: a variable that names no backend would stop it, though figures need none."""

import contextlib
import logging
import os
import sys

if "matplotlib" not in sys.modules:
    _log, _backend = logging.getLogger("matplotlib"), os.environ.pop("MPLBACKEND", None)
    _log.setLevel(logging.ERROR)  # else it says where it keeps its list of fonts if it cannot write to the user's folders
    import matplotlib

    matplotlib.get_cachedir()
    _log.setLevel(logging.NOTSET)
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
        with contextlib.suppress(ValueError):
            matplotlib.rcParams["backend"] = _backend
