"""Reads study files: YAML 1.2's plain scalars, no duplicate keys, no aliases or tags, and limits that are checked first."""

from __future__ import annotations

import re
from typing import Any, cast

import yaml

from search_spaces.errors import MisuseError
from search_spaces.values import MOST_DEPTH, MOST_KEYS, one_line, quoted

try:  # libyaml is ten times faster
    from yaml import CSafeLoader as _Loader
except ImportError:
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

MOST_BYTES = 262_144
"""Longest study file, 256 kB."""
MOST_NODES = 50_000
"""Most values in a study file, keys included."""
MOST_DIGITS = 30
"""Longest whole number."""


class StudyLoader(_Loader):
    """Reads YAML 1.2's plain scalars: 1e-4 is a number, 0:30 and 2010-5-2010 are not. The keys of a mapping are text, each once."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own attribute: its YAML 1.1 rules, all of which are dropped)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if len(node.value) > MOST_KEYS:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_KEYS:,} fields in one mapping", node.start_mark)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = quoted(key.value) if isinstance(key, yaml.ScalarNode) else "of a mapping"
                raise yaml.constructor.ConstructorError(None, None, f"the key {shown} is not text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {quoted(key.value)} occurs twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, where: str, most_nodes: int | None = MOST_NODES) -> object:
    """What the text of a study file holds, in dicts, lists, strings and numbers; MisuseError names the line.

    where: the name of the file. most_nodes: None where the file is one that a study wrote itself.
    """
    try:
        _refuse_excess(text, most_nodes)
        return yaml.load(text, Loader=StudyLoader)
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))) or str(error)
        raise MisuseError(f"{where}{place}: {one_line(problem, 300)}.") from None


def _refuse_excess(text: str, most_nodes: int | None) -> None:
    """Raise yaml.MarkedYAMLError for what is not read, before anything is made of the text."""
    nodes = depth = 0
    for event in yaml.parse(text, Loader=StudyLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            nodes += 1
            depth += isinstance(event, yaml.CollectionStartEvent)
            if problem := _problem(event, nodes, depth, most_nodes):
                raise yaml.constructor.ConstructorError(None, None, problem, cast(yaml.Mark, event.start_mark))


def _problem(event: Any, nodes: int, depth: int, most_nodes: int | None) -> str | None:
    if isinstance(event, yaml.AliasEvent):
        return f"the alias *{event.anchor} is not read. Write out what it stands for"
    if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and event.implicit[0]:
        return "merge keys (<<) are not read. Write out the fields that are meant"
    if event.tag is not None:
        return f"the tag {event.tag} is not read. Leave it out; quote what is meant as text"
    if depth > MOST_DEPTH:
        return f"lists and mappings are nested more than {MOST_DEPTH} deep"
    if most_nodes is not None and nodes > most_nodes:
        return f"more than {most_nodes:,} values. Write ranges, or give the study from Python"
    return None


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MOST_DIGITS:
        problem = f"{quoted(node.value)} is a number of {len(node.value):,} digits, at most {MOST_DIGITS} are read"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return int(node.value)  # 010 is ten, not eight


StudyLoader.add_constructor("tag:yaml.org,2002:int", _whole)

for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
):
    StudyLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first) + ([""] if _tag == "null" else [])
    )
