"""Renders figures as PNG and SVG, for many figures in a second process, so that the first can go on computing.

Run as a script, this file is that process: it reads pickled figures and writes pairs of images. It imports only Matplotlib.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, Any, TypeAlias

import matplotlib
from matplotlib.figure import Figure

STYLE: Any = {"svg.hashsalt": "sae-study", "svg.fonttype": "none", "hatch.linewidth": 0.5}
"""How our figures differ from Matplotlib's defaults."""
DOTS_PER_INCH = 130
DOTS_PER_INCH_OF_DOTS = 100
"""Resolution of the rasterised parts of an SVG."""

Images: TypeAlias = tuple[bytes, bytes]
"""A figure as PNG and as SVG."""


def own_settings() -> AbstractContextManager[None]:
    """A context in which Matplotlib has its defaults and STYLE, whatever the user's file and session have set.

    The backend stays, because changing it would close the user's figures; figures are drawn without one.
    """
    defaults: Any = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    return matplotlib.rc_context({**defaults, **STYLE})


def draw(figure: Figure) -> Images:
    """The figure as PNG and SVG; equal figures give equal bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    with own_settings():
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH)
        figure.savefig(svg, format="svg", dpi=DOTS_PER_INCH_OF_DOTS, metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


class Artist:
    """Draws figures in the given order; if `apart`, in a process of its own that ends with the `with` block."""

    def __init__(self, apart: bool) -> None:
        """The process runs a script and is not a worker of multiprocessing, which would run the caller's own program again."""
        self._process = _start() if apart else None
        self._waiting = ThreadPoolExecutor(1)

    def __enter__(self) -> Artist:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._waiting.shutdown(cancel_futures=kind is not None)
        if self._process is not None:
            self._process.communicate()

    def draw(self, figure: Figure) -> Future[Images]:
        """The images, as a future."""
        if self._process is None:
            done: Future[Images] = Future()
            done.set_result(draw(figure))
            return done
        return self._waiting.submit(_drawn_by, self._process, pickle.dumps(figure))


def _start() -> subprocess.Popen[bytes]:
    """Start the process without this file's folder on its path, where a module may shadow one of the standard library."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", __file__]
    environment = {**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg", "MATPLOTLIBRC": matplotlib.get_data_path()}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _drawn_by(process: subprocess.Popen[bytes], figure: bytes) -> Images:
    """The images from the process; drawn here if it is gone (killed for lack of memory, for instance)."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(figure)
        process.stdin.flush()
        images: Images = pickle.load(process.stdout)
        return images
    except (BrokenPipeError, EOFError):
        return draw(pickle.loads(figure))


def _serve(figures: IO[bytes], images: IO[bytes]) -> None:
    while True:
        try:
            figure = pickle.load(figures)
        except EOFError:
            return
        pickle.dump(draw(figure), images)
        images.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
