"""Figures as PNG and SVG; by a second process where there are many, beside the one that computes what comes next.

Run as a script this file is that process: pickled figures in, pairs of images out. It imports Matplotlib alone.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, TypeAlias

import matplotlib
from matplotlib.figure import Figure

STYLE: Any = {"font.family": "sans-serif", "svg.hashsalt": "sae-study", "svg.fonttype": "none", "hatch.linewidth": 0.5}
DOTS_PER_INCH = 130
DOTS_PER_INCH_OF_DOTS = 100
"""Of what is drawn in dots within an SVG."""

Images: TypeAlias = tuple[bytes, bytes]
"""PNG, SVG."""


def draw(figure: Figure) -> Images:
    """The figure in both forms; the same figure gives the same bytes."""
    png, svg = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(png, format="png", dpi=DOTS_PER_INCH)
        figure.savefig(svg, format="svg", dpi=DOTS_PER_INCH_OF_DOTS, metadata={"Date": None})
    return png.getvalue(), svg.getvalue()


class Artist:
    """Draws figures in the order that they are given; `apart` in a process of its own, which ends with the `with` block."""

    def __init__(self, apart: bool) -> None:
        """A script, and no worker of multiprocessing: that would run the caller's own program once more."""
        self._process = _start() if apart else None
        self._waiting = ThreadPoolExecutor(1)

    def __enter__(self) -> Artist:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._waiting.shutdown(cancel_futures=kind is not None)
        if self._process is not None:
            self._process.communicate()

    def draw(self, figure: Figure) -> Future[Images]:
        """The images, later."""
        if self._process is None:
            done: Future[Images] = Future()
            done.set_result(draw(figure))
            return done
        return self._waiting.submit(_drawn_by, self._process, pickle.dumps(figure))


def _start() -> subprocess.Popen[bytes]:
    """Without this file's folder on its path, where modules are named as the standard library's are."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", __file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path})


def _drawn_by(process: subprocess.Popen[bytes], figure: bytes) -> Images:
    """Asks the process; draws here if it is gone (killed for its memory, say)."""
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
