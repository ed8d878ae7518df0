"""Wrong types that Python users give are refused in one line."""

from __future__ import annotations

from numbers import Integral
from types import NoneType
from typing import Any

import numpy as np
import pytest
from ray import tune

from search_spaces import MisuseError
from study import launch, resume
from study.arguments import refuse_wrong_type


@pytest.mark.parametrize("value", [2, None, np.int64(2)])
def test_a_number_of_numpy_is_a_number(value: Any) -> None:
    """As it comes out of an array."""
    refuse_wrong_type("workers", value, Integral, NoneType)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": "2"},
        {"workers": True},
        {"workers": 2.0},
        {"storage": 3},
        {"address": 5},
        {"force": "no"},
        {"progress": print},
        {"on_progress": 5},
        {"callbacks": print},
        {"callbacks": [tune.Callback]},
        {"callbacks": tune.Callback()},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
@pytest.mark.parametrize("run", [launch, resume])
def test_a_wrong_type_is_refused_by_name(run: Any, wrong: dict[str, Any]) -> None:
    """In one line, before anything starts."""
    with pytest.raises(MisuseError, match=rf"^{next(iter(wrong))}=.*$"):
        run("smoke", **wrong)
