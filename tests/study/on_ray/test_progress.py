"""The progress of a study as it runs."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from study.on_ray.progress import duration, progress_shown
from study.on_ray.watch import Progress
from study.terminal import is_terminal

HALF = Progress(10, 5, 5, 2.0, {"sae_dead": 1}, {"edge_width": 0.5})


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (61, "1 min 1 s"), (7260, "2 h 1 min")])
def test_time_left_is_shown_in_its_two_largest_units(seconds: float, shown: str) -> None:
    """Seconds matter below an hour alone."""
    assert duration(seconds) == shown


class Screen(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [None, io.StringIO(), SimpleNamespace()], ids=["none", "text", "without isatty"])
def test_nothing_is_shown_without_a_terminal(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variables of other programs ask for."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_shown("s") as show:
        assert show is None


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study's name is no markup."""
    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", screen)
    with progress_shown("[red]:smile:") as show:
        assert show is not None
        show(HALF)
    assert "[red]:smile:" in screen.getvalue()
    assert "5/10 2.5/s, 2 s left; failures: sae_dead 1; edge width 0.5" in screen.getvalue()


def test_a_terminal_that_cannot_redraw_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Emacs."""
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(Screen())


def test_a_notebook_shows_an_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """One, which is updated."""
    shown: list[Any] = []

    def display(element: Any, display_id: bool) -> Any:
        shown.append(element)
        return SimpleNamespace(update=shown.append)

    shell = SimpleNamespace(kernel=None)
    ipython = SimpleNamespace(get_ipython=lambda: shell, display=SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    with progress_shown("<s>") as show:
        assert show is not None
        show(HALF)
    start, half = shown
    assert repr(start) == "<s>: starting Ray"
    assert half._repr_html_().startswith('<progress value="5" max="10"></progress> &lt;s&gt;: 5/10 2.5/s')
