"""Options that belong together reach a command as one object."""

from __future__ import annotations

import inspect
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from search_spaces.searches import MapSearch
from service.cli import run
from service.cli.options import AsJson, Overrides, Resources, grouped, search_options


def test_groups_are_replaced_by_their_options_in_place() -> None:
    """What Typer sees of `launch`: one parameter per option, in the order of the help."""
    names = "space name protocol engine dtype seeds address pack_size workers force dry_run storage as_json"
    assert list(inspect.signature(run.launch).parameters) == names.split()


def test_command_gets_objects_made_of_what_was_typed() -> None:
    """Options that were not typed keep their defaults."""
    seen: list[object] = []

    @grouped
    def command(
        word: Annotated[str, typer.Argument()], *, overrides: Overrides, resources: Resources, as_json: AsJson = False
    ) -> None:
        seen.extend((word, overrides, resources, as_json))

    app = typer.Typer()
    app.command()(command)
    assert CliRunner().invoke(app, ["w", "--name", "n", "--workers", "3", "--json"]).exit_code == 0
    assert seen == ["w", Overrides(name="n"), Resources(workers=3), True]


def test_options_of_a_search_are_its_fields() -> None:
    """All but the kind; none is given unless it is typed."""
    options = search_options(MapSearch)()
    assert set(vars(options)) == set(MapSearch.model_fields) - {"kind"}
    assert set(vars(options).values()) == {None}


@pytest.mark.parametrize(("typed", "meant"), [("8", 8), ("auto", "auto"), ("-3", "-3"), ("²", "²"), (None, None)])
def test_pack_size_is_a_number_where_it_is_one(typed: str | None, meant: int | str | None) -> None:
    """Anything else is left to the study's own check."""
    assert Resources(pack_size=typed).replicates_per_pack == meant
