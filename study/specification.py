"""Makes the specification of a study from what the caller gives and the options that override it, and checks it once.

`launch`, `run_here` and the command line all come through here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from search_spaces.errors import MisuseError
from search_spaces.paths import STUDY_NAME, Given, written
from search_spaces.searches import Search
from search_spaces.spaces import SPACES, GridSpace, named_space, parse_seeds
from search_spaces.study_files import StudySpec, mapping_from_file, study_from


def study_spec(
    space: Given | StudySpec | Mapping[str, Any],
    *,
    name: str | None = None,
    protocol: str | Mapping[str, Any] | None = None,
    engine: str | None = None,
    dtype: str | None = None,
    seeds: str | None = None,
    pack_size: int | str | None = None,
    search: Mapping[str, Any] | None = None,
) -> StudySpec:
    """The specification that `launch` would run.

    space: a named space, a study file, a `StudySpec`, or the mapping that a study file holds. The other arguments
    override what it says. Raises MisuseError.
    """
    fields, where = _fields_of(space)
    if search is not None:
        fields |= _searching(fields, search)
    options = {"name": name, "protocol": protocol, "engine": engine, "dtype": dtype, "pack_size": pack_size}
    spec = study_from(fields | {field: value for field, value in options.items() if value is not None}, where)
    return spec if seeds is None else _with_seeds(spec, seeds)


def _fields_of(space: Given | StudySpec | Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields of a specification, not yet checked, and the file that they come from."""
    if isinstance(space, (StudySpec, Mapping)):
        return dict(space), ""
    text = written(space, "space")
    if text in SPACES or not _may_be_file(text):
        return {"name": text, "protocol": "dissertation", "space": named_space(text)}, ""
    return mapping_from_file(space), text


def _may_be_file(text: str) -> bool:
    """Whether a text is more likely a study file, or a pipe that holds one, than the misspelt name of a space."""
    return text.endswith((".yaml", ".yml")) or not re.fullmatch(STUDY_NAME, text) or Path(text).exists()


def _searching(fields: Mapping[str, Any], search: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that turn the study into this search. They override the study's own search if that is of the same kind."""
    given = fields.get("search")
    own = dict(given) if isinstance(given, (Search, Mapping)) else {}
    changes: dict[str, Any] = {"search": (own if own.get("kind") == search["kind"] else {}) | dict(search)}
    if not own and "name" in fields:  # a name of its own beside the grid study of the same space
        changes["name"] = f"{fields['name']}-{search['kind']}"
    return changes


def _with_seeds(spec: StudySpec, seeds: str) -> StudySpec:
    if spec.search is not None:
        raise MisuseError("--seeds is for a grid: a search numbers its seeds itself.")
    if not isinstance(spec.space, GridSpace):
        raise MisuseError("--seeds needs a grid: this study lists its replicates one by one, seeds included.")
    return spec.model_copy(update={"space": spec.space.model_copy(update={"seeds": parse_seeds(seeds)})})
