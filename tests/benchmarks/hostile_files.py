"""A generator of hostile study files, and the command that judges thousands of them.

    python -m tests.benchmarks.hostile_files --examples 5000

Each file is either accepted, with a plan, or refused in one line. The command prints how many were which, and the longest time
and the most memory that one took; its address space is limited, so that a file cannot take the machine's.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir

from search_spaces import MisuseError, protocol
from study.engines.compiled import CompiledEngine
from study.planning import untimed_plan
from study.specification import study_spec
from study.storage.study_folder import Storage

SECONDS, MEGABYTES = 1.0, 100.0
"""What one file may take."""
ADDRESS_SPACE = 6_000_000_000

SANE = {
    "name": "a",
    "protocol": "{samples: 200, ae_epochs: 1, sae_epochs: 1}",
    "engine": "auto",
    "dtype": "float64",
    "pack_size": "auto",
    "architectures": '["5-3-5"]',
    "sparsities": "[0.5, 0.9]",
    "l1": "{from: 0.01, to: 1, count: 3, scale: log}",
    "seeds": '"0:3"',
}
"""Text of each field in a file that is accepted; the generator puts hostile text in the place of some."""

numbers = st.one_of(
    st.integers(-3, 12).map(str),
    st.integers(0, 400).map(lambda power: f"1e{power}"),
    st.integers(0, 400).map(lambda power: f"1e-{power}"),
    st.integers(0, 30).map(lambda power: f"{10**power}"),
    st.floats().map(repr),
    st.sampled_from([".nan", ".inf", "-.inf", "-0.0", "010", "1_000", "0x10", "0o7", "1e3", "5e-324", "4294967296", "2**31"]),
    st.sampled_from(["true", "false", "null", "~", "yes", "on", "1:30", "2024-01-01"]),
    st.integers(1, 200_000).map(lambda digits: "9" * digits),
)
words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["\x00", "\x85", "\u2028", "\ufeff", "\u202e", "\t", "\r\n", "é" * 200, "🦠", "'", '"', "#", "%TAG", "---", "..."]
    ),
    st.sampled_from(
        ["!!python/object/apply:os.system [x]", "!!binary aGk=", "!!set {a}", "!!omap [a: 1]", "!!timestamp 2024-01-01"]
    ),
    st.sampled_from(
        ["!!int x", "!!float x", "!!bool x", "! x", "!<tag:yaml.org,2002:int> x", "*a", "&a x", "<<", "? x", "| x", "> x"]
    ),
    st.sampled_from(
        ["smoke", "full", "dissertation", "sound", "thresholds", "map", "torch", "reference", "../x", "a/b", "x" * 300]
    ),
)
architectures = st.one_of(
    st.sampled_from(
        ["10000-5000-10000", "1000000-5-1000000", "10-5-10/100000000", "10-5-10/0", "5-5-5", "5-3-6", "٣-٢-٣", "5-3-5\n"]
    ),
    st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)).map(lambda widths: f"{widths[0]}-{widths[1]}-{widths[0]}"),
    st.integers(2, 60).map(lambda width: f"{width}-{width // 2}-{width}/{width**3}"),
    st.integers(1, 5000).map(lambda digits: f"{'9' * digits}-1-{'9' * digits}"),
)
atoms = st.one_of(numbers, words, architectures, architectures.map(lambda text: f'"{text}"'), words.map(repr))


@st.composite
def ranges(draw: st.DrawFn) -> str:
    low, high, count = draw(numbers), draw(numbers), draw(numbers)
    written = draw(st.sampled_from([f"{{from: {low}, to: {high}, count: {count}}}", f"{{from: {low}, to: {high}}}"]))
    return written[:-1] + draw(
        st.sampled_from(["}", ", scale: log}", ", scale: linear}", ", scale: 3}", ", step: 1}", ", from: 1}"])
    )


plausible_ranges = st.builds(
    lambda low, high, count: f"{{from: {low}, to: {high}, count: {count}}}",
    st.floats(0, 0.4).map(repr),
    st.floats(0.5, 0.99).map(repr),
    st.sampled_from([2, 10, 100, 1000, 10_000, 10_001, 10**9]),
)
seeds = st.one_of(
    st.tuples(st.integers(0, 2**33), st.integers(0, 2**33)).map(lambda ends: f'"{min(ends)}:{max(ends)}"'),
    st.integers(0, 10).map(lambda power: f'"0:{10**power}"'),
    st.lists(st.integers(0, 10**7).map(lambda start: f'"{start}:{start + 10**7}"'), max_size=5).map(
        lambda some: f"[{', '.join(some)}]"
    ),
)
nests = st.one_of(
    st.tuples(st.integers(1, 20_000), st.sampled_from(["[]", "{}", "- ", "? ", "{a: "])).map(
        lambda deep: deep[1][0] * deep[0] + deep[1][1:] * deep[0] if deep[1] in ("[]", "{}") else deep[1] * deep[0]
    ),
    st.integers(1, 120_000).map(lambda count: "[" + "1," * count + "]"),
    st.integers(1, 20_000).map(lambda count: "{" + ",".join(f"k{one}: 1" for one in range(count)) + "}"),
    st.integers(2, 12).map(lambda width: f"[&a [1, 1], {', '.join(['*a'] * width)}]"),
)
values = st.one_of(
    atoms, ranges(), plausible_ranges, seeds, nests, st.lists(atoms, max_size=6).map(lambda some: f"[{', '.join(some)}]")
)
fields = st.sampled_from([*protocol.fields(), "base", "sae_epoch", "x"])
protocols = st.lists(st.tuples(fields, st.one_of(numbers, words)), max_size=4).map(
    lambda some: "{" + ", ".join(f"{name}: {value}" for name, value in some) + "}"
)
searches = st.one_of(
    st.integers(1, 10**7).map("{{kind: map, budget: {}}}".format),
    st.integers(1, 10**5).map("{{kind: l1, budget: {}}}".format),
    st.lists(
        st.tuples(
            st.sampled_from(["budget", "level", "first_pass", "failure", "l1s_per_autoencoder", "regret", "precision"]), values
        ),
        max_size=3,
    ).flatmap(
        lambda some: st.sampled_from(["map", "l1", "x"]).map(
            lambda kind: f"{{kind: {kind}" + "".join(f", {name}: {value}" for name, value in some) + "}"
        )
    ),
)
listed = st.lists(st.tuples(architectures, numbers, numbers, numbers), max_size=4).map(
    lambda rows: "[" + ", ".join(f'{{architecture: "{a}", sparsity: {s}, l1: {x}, seed: {n}}}' for a, s, x, n in rows) + "]"
)
hostile = {
    "protocol": st.one_of(protocols, values),
    "architectures": st.one_of(architectures.map(lambda text: f'["{text}"]'), values),
    "sparsities": st.one_of(ranges(), values),
    "l1": st.one_of(ranges(), values),
    "seeds": st.one_of(seeds, values),
}
large = {
    "name": st.just("b" * 120),
    "protocol": st.one_of(
        st.builds("{{samples: {}, ae_epochs: {}, sae_epochs: {}}}".format, *[st.sampled_from([1, 100, 10**4, 10**6, 10**9])] * 3),
        st.builds(
            "{{base: sound, ae_steps: {}, sae_batch_size: {}, eval_samples: {}}}".format,
            *[st.sampled_from([1, 100, 10**6, 10**9])] * 3,
        ),
        st.builds(
            "{{ae_learning_rate: {}, sae_init_std: {}, adam_epsilon: {}}}".format, *[st.floats(0, 1e6, exclude_min=True)] * 3
        ),
    ),
    "pack_size": st.integers(1, 10**7).map(str),
    "architectures": st.one_of(
        st.integers(1, 1_100).map(lambda count: "[" + ", ".join(f"{n}-2-{n}/9" for n in range(3, 3 + count)) + "]"),
        st.integers(2, 10**5).map(lambda width: f"[{width}-{width // 2}-{width}]"),
    ),
    "sparsities": plausible_ranges,
    "l1": plausible_ranges,
    "seeds": seeds,
}
"""Text that may be accepted."""


class HostileFile(bytes):
    """The content of a study file; a failure shows its beginning."""

    def __repr__(self) -> str:
        return repr(self[:2000])


@st.composite
def study_files(draw: st.DrawFn) -> HostileFile:
    """A study file of which some parts are large, or hostile: numbers, sizes, depth, aliases, tags, unicode, encodings."""
    text = dict(SANE)
    for name in draw(st.lists(st.sampled_from(sorted(large)), max_size=4, unique=True)):
        text[name] = draw(large[name])
    attacked = draw(st.booleans())
    for name in draw(st.lists(st.sampled_from(sorted(text)), min_size=1, max_size=2, unique=True)) if attacked else ():
        text[name] = draw(hostile.get(name, values))
    axes = ", ".join(f"{name}: {text.pop(name)}" for name in ("architectures", "sparsities", "l1", "seeds"))
    text["space"] = draw(st.sampled_from([f"{{{axes}}}"] * 8 + ["smoke", "full"]))
    if attacked and draw(st.integers(0, 9)) == 5:
        text["space"] = draw(st.one_of(values, listed.map(lambda rows: f"{{replicates: {rows}}}")))
    if draw(st.integers(0, 4)) == 3:
        text["search"] = draw(searches)
    lines = [f"{name}: {value}" for name, value in text.items()]
    if attacked and draw(st.integers(0, 5)) == 3:
        lines.insert(draw(st.integers(0, len(lines))), draw(st.one_of(words, nests, st.just("<<: {name: b}"), st.just("name: b"))))
    file = draw(st.sampled_from(["\n", "\n", "\n", "\r\n", "\r"])).join(lines)
    encoding = draw(st.sampled_from(["utf-8"] * 20 + ["utf-16", "utf-8-sig", "latin-1"]))
    return HostileFile(file.encode(encoding, "replace"))


@dataclass
class Judged:
    """What became of the files so far."""

    storage: Storage
    file: Path
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """The longest that a file took."""
    megabytes: float = 0.0
    """The most that a file raised the process's peak of memory."""

    def judge(self, content: bytes) -> None:
        """Plan the study of the file; AssertionError unless it is accepted or refused in one line, in time and memory."""
        self.file.write_bytes(content)
        before, began = _peak(), time.process_time()
        try:
            spec = study_spec(self.file)
            plan, _ = untimed_plan(self.storage.study(spec.name), spec, workers=2)
            assert plan.planned >= 0
            self.outcomes["accepted"] += 1
        except MisuseError as refusal:
            line = str(refusal)
            assert line.isprintable(), line
            assert len(line) < 1500, line
            self.outcomes["refused"] += 1
        seconds, megabytes = time.process_time() - began, _peak() - before
        self.seconds, self.megabytes = max(self.seconds, seconds), max(self.megabytes, megabytes)
        assert seconds < SECONDS, f"{seconds:.1f} s"
        assert megabytes < MEGABYTES, f"{megabytes:.0f} MB"


def _peak() -> float:
    """The process's peak of memory in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def judge(examples: int, folder: Path) -> Judged:
    """Make so many files, always the same, and judge each."""
    judged = Judged(Storage.at(folder / "storage"), folder / "hostile.yaml")
    CompiledEngine()
    judged.judge("\n".join(["name: a", "protocol: sound", "space: smoke"]).encode())  # imports what is imported once

    set_hypothesis_home_dir(folder)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(study_files())
    def each(content: bytes) -> None:
        judged.judge(content)

    each()
    return judged


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge hostile study files.")
    parser.add_argument("--examples", type=int, default=5000, help="how many files to make")
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    with tempfile.TemporaryDirectory() as folder:
        judged = judge(parser.parse_args().examples, Path(folder))
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(judged.outcomes.items()))
    sys.stdout.write(f"{counts}; at most {judged.seconds:.2f} s of the processor and {judged.megabytes:.0f} MB for one file\n")


if __name__ == "__main__":
    main()
