"""Which sources train a study: where Python finds them, a hash of them, and whether workers find the same.

Ray puts the driver's working directory first on the path of its workers, and `study` is a name that others use too: without
care, workers would train by whatever lies there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

from ray.cloudpickle import register_pickle_by_value

from search_spaces.errors import MisuseError
from search_spaces.extensions import extensions

PACKAGES = ("search_spaces", "study")
"""The packages that workers import."""

Found = tuple[str, str]
"""Where a module is, and a hash of its sources; two empty texts if there is none."""


def found(names: Iterable[str]) -> dict[str, Found]:
    """What `import` would find for each name. It is not run; only the packages that hold it are."""
    return {name: _found(name) for name in names}


def _found(name: str) -> Found:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # the package that should hold it is another, or is not there
        spec = None
    if spec is None:
        return "", ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [(file.relative_to(folder).as_posix(), file) for folder in folders for file in folder.rglob("*.py")]
    if not files:  # a single file, or an archive that holds the package
        files = [("", Path(getattr(spec.loader, "archive", None) or spec.origin or name))]
    digest = hashlib.sha256()
    for relative, file in sorted(files):
        content = file.read_bytes() if file.is_file() else b""
        digest.update(f"{relative} {len(content)}\n".encode() + content)
    return str(folders[0] if folders else spec.origin), digest.hexdigest()[:20]


register_pickle_by_value(sys.modules[__name__])  # a worker that finds another `study` can still say so
_OURS = found(PACKAGES)
"""As this process imported them: files that change later count as others."""


def sources() -> dict[str, Found]:
    """The sources that train: of our packages, and of the modules that register variants, metrics and verdicts."""
    return _OURS | found(extensions())


def refuse_changed() -> None:
    """Raise MisuseError if a file has changed since this process imported it: workers would import it anew."""
    refuse_others(sources(), found(sources()), "this machine")


def refuse_others(ours: Mapping[str, Found], theirs: Mapping[str, Found], host: str) -> None:
    """Raise MisuseError if the sources that workers of a host find are not those of the driver."""
    for name, (place, digest) in ours.items():
        other, its_digest = theirs[name]
        if its_digest == digest:
            continue
        if not its_digest:
            raise MisuseError(
                f"workers on {host} do not find {name!r}, which the driver imported from {place}. Put its folder on their "
                "PYTHONPATH; a Ray that `launch` itself starts or connects to gets search_spaces and study from the driver."
            )
        if other == place:
            raise MisuseError(f"{place} has changed since {name!r} was imported. Start Python again, then launch or resume.")
        raise MisuseError(
            f"workers on {host} would import {name!r} from {other}, which is not what the driver imported from {place}. Rename it, "
            "or work in another folder; where `launch` itself starts Ray, workers import what the driver imported."
        )


def warn_of_others(study: str, begun_with: Mapping[str, str]) -> None:
    """Log a line if a study was begun with other sources than these. Its rows stay comparable if the procedure is the same."""
    for name, (place, digest) in sources().items():
        if begun_with.get(name, digest) != digest:
            logging.getLogger(__name__).warning(
                f"warning: study={study!r} was begun with other sources of {name!r} ({begun_with[name]} in its manifest.json; "
                f"{digest} in {place}). It goes on, as both have the same procedure version."
            )


def driver_path() -> list[str]:
    """This process's `sys.path`, as a worker elsewhere on this machine would write it: folders and archives that exist."""
    return [os.path.abspath(entry) for entry in sys.path if os.path.exists(entry or ".")]
