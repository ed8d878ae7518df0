"""The outcome of a launch or resume, as a value and as a notebook shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_spaces.learners.contract import Learner
from study.notebook import counts_html, paragraphs_html
from study.storage.drivers import StudyState


@dataclass(frozen=True, repr=False)
class Outcome:
    """The outcome of a launch or resume."""

    study: str
    path: str
    state: StudyState
    """`done`, `stopped` or `failed`."""
    planned: int
    done: int
    trained: int
    """Replicates trained in this run."""
    failures: dict[str, int]
    """Rows of this run by FailureKind, `none` left out."""
    seconds: float
    engine: str
    """The engine that trained: for `auto`, the one that was chosen."""
    errors: tuple[str, ...] = field(default=())
    """What packs raised: faults of the program, not of replicates."""
    learner: Learner | None = field(default=None, compare=False)
    """A search's learner in its final state."""

    def __str__(self) -> str:
        return (
            f"Study {self.study}: {self.state}, {self.trained} replicates trained in {self.seconds:.0f} s by the "
            f"{self.engine} engine, rows in {self.path}"
        )

    def __repr__(self) -> str:
        failures = ", ".join(f"{kind} {count}" for kind, count in self.failures.items()) or "none"
        return f"<Outcome {self.study}: {self.state}, {self.done} of {self.planned} replicates; failures: {failures}>"

    def _repr_html_(self) -> str:
        none = self.trained - sum(self.failures.values())
        go_on = f"rows: analysis.load({self.path!r})" if self.state == StudyState.DONE else f"go on: {self._resume()}"
        return paragraphs_html(str(self), *self.errors) + counts_html({"none": none, **self.failures}) + paragraphs_html(go_on)

    def _resume(self) -> str:
        """The call that trains what is missing."""
        base, mark, options = self.path.partition("?") if "://" in self.path else (self.path, "", "")
        return f"study.resume({self.study!r}, storage={base.removesuffix(f'/{self.study}') + mark + options!r})"
