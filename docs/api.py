"""Make the API pages from the docstrings, in build/api: `make docs`."""

from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from warnings import filterwarnings

import pdoc

ROOMS = ("search_spaces", "study", "analysis", "service")
LEFT_OUT = "!study.engines.triton_kernels"  # it imports Triton, which is there only beside CUDA
NOT_A_FAULT = (
    "Couldn't import study.engines.triton_kernels",
    "The module specification .* has already been added",  # a package without __all__ brings its modules itself
    "Failed to run TYPE_CHECKING code|Error parsing type annotation",  # the annotation is shown as it is written
)


def modules_of(room: str) -> list[str]:
    """The room and every module in it; what its own file imports lazily is imported, since pdoc shows what is there."""
    package = import_module(room)
    for name in getattr(package, "__all__", ()):
        setattr(package, name, getattr(package, name))
    inside = [module.name for module in walk_packages(package.__path__, f"{room}.")]
    return [room, *(name for name in inside if not name.endswith("__main__"))]


for message in NOT_A_FAULT:
    filterwarnings("ignore", message)
pdoc.pdoc(*(name for room in ROOMS for name in modules_of(room)), LEFT_OUT, output_directory=Path("build/api"))
print("Open build/api/index.html")
