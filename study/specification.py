"""Makes the specification of a study from what the caller gives and the options that override it, and checks it once.

`launch`, `run_here` and the command line all come through here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from search_spaces.errors import MisuseError
from search_spaces.paths import STUDY_NAME, Given, written
from search_spaces.searches import Search
from search_spaces.spaces import SPACES, GridSpace, named_space, parse_seeds
from search_spaces.study_files import StudySpec, mapping_from_file, study_from
from search_spaces.values import quoted


def study_spec(
    space: Given | StudySpec | Mapping[str, Any],
    *,
    name: str | None = None,
    protocol: str | Mapping[str, Any] | None = None,
    engine: str | None = None,
    dtype: str | None = None,
    seeds: object = None,
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


def _fields_of(space: object) -> tuple[dict[str, Any], str]:
    """The fields of a specification, not yet checked, and the file that they come from."""
    if isinstance(space, (StudySpec, Mapping)):
        return dict(space), ""
    if not isinstance(space, (str, os.PathLike)):
        raise MisuseError(
            f"{quoted(space)} is not a study. Give a named space ({', '.join(SPACES)}), a study file, or the mapping that "
            "one holds."
        )
    text = written(space, "space")
    if text in SPACES or not _may_be_file(text):
        named_space(text)
        return {"name": text, "space": text}, ""
    return mapping_from_file(space), text


def _may_be_file(text: str) -> bool:
    """Whether a text is more likely a study file, or a pipe that holds one, than the misspelt name of a space."""
    return text.endswith((".yaml", ".yml")) or not re.fullmatch(STUDY_NAME, text) or os.path.exists(text)


def _searching(fields: Mapping[str, Any], search: object) -> dict[str, Any]:
    """The fields that turn the study into this search. They override the study's own search if that is of the same kind."""
    if not isinstance(search, Mapping) or "kind" not in search:
        raise MisuseError(f"search={quoted(search)} is not a mapping with a kind. Give one as in {{'kind': 'map', 'budget': 500}}.")
    given = fields.get("search")
    own = dict(given) if isinstance(given, (Search, Mapping)) else {}
    changes: dict[str, Any] = {"search": (own if own.get("kind") == search["kind"] else {}) | dict(search)}
    if not own and isinstance(fields.get("name"), str):  # a name of its own beside the grid study of the same space
        changes["name"] = f"{fields['name']}-{search['kind']}"
    return changes


def _with_seeds(spec: StudySpec, seeds: object) -> StudySpec:
    if spec.search is not None:
        raise MisuseError("--seeds is for a grid: a search numbers its seeds itself.")
    if not isinstance(spec.space, GridSpace):
        raise MisuseError("--seeds needs a grid: this study lists its replicates one by one, seeds included.")
    space = spec.space.model_copy(update={"seeds": parse_seeds(seeds)})
    return study_from(dict(spec) | {"space": space})
