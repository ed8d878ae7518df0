"""Kernels in numba. Its variables are taken out here, before any file of this package imports it, except for those OBEYED."""

import os
import sys

OBEYED = ("NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
"""They change no row. The others may switch compilation off, break it, or print its steps on standard output."""

if "numba" not in sys.modules:  # else the caller uses numba too, and the variables are meant for that: see `compilation.py`
    for _name in [name for name in os.environ if name.startswith("NUMBA_") and name not in OBEYED]:
        del os.environ[_name]
