"""Interrupt commands at random moments: `python -m tests.field.signal_moments --times 200 --seed 0`.

A moment is a command (launch, map, l1, report, diagnose), in the foreground or as the background job of a script, and SIGINT,
SIGTERM or SIGHUP, once to three times within 0.2 s, to the command alone or to its process group as a terminal does, some time
between the command's first line and its end. Each must end with exit code 130 and one sentence, and leave no process behind within
GONE_SECONDS. A study is then continued by the same command, until it is done: its rows must be those of an undisturbed study, none
lost, none twice, none different in a bit. Prints a table; the exit status is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from study import run_here
from study.storage.drivers import Driver
from study.storage.schema import science_columns
from study.storage.study_folder import Storage
from tests.benchmarks.machine import machine
from tests.field.conftest import COMMAND, environment

GONE_SECONDS = 5.0
LONGEST = 120.0
PRESSES = [
    *((one,) for one in ("INT", "TERM", "HUP") for _ in range(2)),
    *((one,) * times for one in ("INT", "TERM", "HUP") for times in (2, 3)),
    ("INT", "TERM"),
    ("HUP", "TERM"),
]
PROTOCOL = {"base": "dissertation", "samples": 300, "ae_epochs": 1, "sae_epochs": 8}
COMMON: dict[str, Any] = {"protocol": PROTOCOL, "engine": "reference", "pack_size": 3}
SPACE: dict[str, Any] = {"architectures": ["5-3-5"], "sparsities": [0.9], "l1": {"from": 1e-3, "to": 1.0}, "seeds": "0:4"}
STUDIES: dict[str, dict[str, Any]] = {
    "launch": {"space": SPACE | {"sparsities": [0.5, 0.9], "l1": [0.01], "seeds": "0:18"}},
    "map": {"space": SPACE | {"sparsities": {"from": 0.3, "to": 0.95}}, "search": {"kind": "map", "budget": 36}},
    "l1": {"space": SPACE, "search": {"kind": "l1", "budget": 48}},
}
"""About ten packs of a third of a second each."""
COMMANDS = (*STUDIES, "report", "diagnose")
PROGRESS = re.compile(r"\w+: \d+/\d+ replicates, .*")


@dataclass
class Moment:
    """One interrupted command."""

    command: str
    presses: tuple[str, ...]
    background: bool
    group: bool
    at: float
    """Seconds between its first line and the signal."""
    code: int = 0
    seconds: float = 0.0
    """From the first signal to the exit."""
    gone: float = 0.0
    """From the exit to the end of its last process."""
    wrong: list[str] = field(default_factory=list)

    @property
    def too_late(self) -> bool:
        return self.code == 0


@dataclass(frozen=True)
class Bench:
    """A folder with the studies, the commands, and how long each of them takes when nobody interrupts it."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def storage(self) -> Path:
        return self.folder / "studies"

    def measure(self) -> None:
        """Run each command to its end once."""
        run_to_the_end(self.arguments("launch", storage=self.folder / "finished"), self.folder)
        for command in COMMANDS:
            began = time.monotonic()
            run_to_the_end(self.arguments(command), self.folder)
            self.seconds[command] = time.monotonic() - began
            self.finish(command)

    def arguments(self, command: str, storage: Path | None = None) -> list[str]:
        if command in STUDIES:
            file = self.folder / f"{command}.yaml"
            if not file.exists():
                file.write_text(json.dumps({"name": command, **COMMON, **STUDIES[command]}))
            return ["launch", str(file), "--storage", str(storage or self.storage), "--workers", "1"]
        if command == "report":
            return ["report", "launch", "--storage", str(self.folder / "finished")]
        return ["diagnose", "5-3-5", "--sparsity", "0.9", "--l1", "0.05", "--seed", "1", "--out", str(self.folder / "figure")]

    def finish(self, command: str) -> list[str]:
        """Run the command to its end and remove its study; returns what is wrong with the rows."""
        run_to_the_end(self.arguments(command), self.folder)
        if command not in STUDIES:
            return []
        wrong = [] if science(self.storage, command).equals(undisturbed(command)) else ["rows differ"]
        shutil.rmtree(self.storage / command)
        return wrong

    def fire(self, moment: Moment) -> None:
        """Start the command, send the signals, and note what became of it."""
        if moment.command in STUDIES:
            self.storage.mkdir(exist_ok=True)
        with (self.folder / "errors").open("w+") as errors:
            process = started(self.arguments(moment.command), self.folder, moment.background, errors)
            pid = command_pid(process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment.at)
            began = time.monotonic()
            press(pid, moment)
            moment.code = process.wait(LONGEST)
            ended = time.monotonic()
            moment.seconds = ended - began
            while left := processes_of_session(process.pid):
                if time.monotonic() - ended > GONE_SECONDS:
                    moment.wrong.append(f"left: {', '.join(left)}")
                    break
                time.sleep(0.02)
            moment.gone = time.monotonic() - ended
            errors.seek(0)
            self._judge(moment, errors.read())

    def _judge(self, moment: Moment, errors: str) -> None:
        lines = [line for line in errors.splitlines() if not PROGRESS.fullmatch(line)]
        if moment.too_late:
            moment.wrong += [f"said {line!r}" for line in lines]
        elif moment.code != 130:
            moment.wrong.append(f"exit code {moment.code}: {errors[-500:]!r}")
        elif len(lines) != 1 or not lines[0].startswith("interrupted: "):
            moment.wrong.append(f"said {errors[-500:]!r}")
        if moment.command in STUDIES:
            folder = Storage.at(self.storage).study(moment.command)
            driver = Driver.of(folder)
            if driver is not None and driver.state not in ("stopped", "done"):
                moment.wrong.append(f"state {driver.state}")
            if folder.read_shards(["replicate_id"]).unreadable:
                moment.wrong.append("unreadable shards")


def started(arguments: Sequence[str], folder: Path, background: bool, errors: Any) -> subprocess.Popen[bytes]:
    """The command in a session of its own. A script's background job starts with SIGINT ignored, as POSIX wants it."""
    line = [*COMMAND, *arguments]
    if background:
        line = ["sh", "-c", 'trap "" HUP TERM INT; (trap - HUP TERM; exec "$@") & wait $!', "sh", *line]
    return subprocess.Popen(
        line,
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        start_new_session=True,
        preexec_fn=ignore_none,
    )


def ignore_none() -> None:
    """Start with no signal ignored, even where this program runs under `nohup` or in the background."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def command_pid(process: subprocess.Popen[bytes]) -> int:
    """The pid of the command, as soon as its first line has run: then it catches SIGTERM. What comes before is Python's start."""
    while process.poll() is None:
        for pid in [process.pid, *children(process.pid)]:
            if catches(pid, signal.SIGTERM):
                return pid
        time.sleep(0.002)
    raise RuntimeError("the command ended before it began")


def catches(pid: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (number - 1) & 1 and "python" in status.splitlines()[0])


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def press(pid: int, moment: Moment) -> None:
    """Send the signals within 0.2 s. A process that is gone hears nothing."""
    send: Callable[[int, int], None] = os.killpg if moment.group else os.kill
    for name in moment.presses:
        try:
            send(os.getpgid(pid) if moment.group else pid, signal.Signals[f"SIG{name}"])
        except ProcessLookupError:
            return
        time.sleep(0.15 / len(moment.presses))


def processes_of_session(session: int) -> list[str]:
    """The living processes of a session: those of Ray stay in it, whoever adopts them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, _, _, its_session = rest.split()[:4]
        if int(its_session) == session and state != "Z":
            found.append(name)
    return found


def run_to_the_end(arguments: Sequence[str], folder: Path) -> None:
    done = subprocess.run([*COMMAND, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{arguments}: exit code {done.returncode}\n{done.stderr}")


def science(storage: Path, name: str) -> pd.DataFrame:
    rows = Storage.at(storage).study(name).read_shards().rows.to_pandas()
    return rows[science_columns()].sort_values("replicate_id", ignore_index=True)


@functools.cache
def undisturbed(command: str) -> pd.DataFrame:
    """The science columns of the study's rows from this process, without Ray."""
    rows = run_here({"name": command, **COMMON, **STUDIES[command]}).to_pandas()
    return rows[science_columns()].sort_values("replicate_id", ignore_index=True)


def moments(times: int, seed: int, bench: Bench) -> list[Moment]:
    """So many interrupted commands, all commands in turn, and those that were done before their moment came.

    A study goes on from moment to moment; now and then it is finished and compared.
    """
    draw = random.Random(seed)
    fired: list[Moment] = []
    while sum(not moment.too_late for moment in fired) < times:
        command = list(bench.seconds)[len(fired) % len(bench.seconds)]
        at = draw.uniform(0, bench.seconds[command])
        moment = Moment(command, draw.choice(PRESSES), draw.random() < 0.5, draw.random() < 0.3, at)
        bench.fire(moment)
        if moment.too_late or draw.random() < 0.2:
            moment.wrong += bench.finish(command)
        fired.append(moment)
        for wrong in moment.wrong:
            print(f"{moment}: {wrong}", file=sys.stderr)
    for command in bench.seconds:
        fired[-1].wrong += bench.finish(command)
    return fired


def table(fired: Sequence[Moment]) -> str:
    """One line per command, in Markdown."""
    lines = [
        "| command | interrupted | done before | 130 and one sentence | exit, median and slowest | all processes gone | wrong |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for command in [*dict.fromkeys(moment.command for moment in fired), "all"]:
        own = [moment for moment in fired if command in (moment.command, "all")]
        cut = sorted(moment.seconds for moment in own if not moment.too_late)
        times = f"{cut[len(cut) // 2]:.2f} s, {cut[-1]:.2f} s" if cut else "–"
        late = sum(moment.too_late for moment in own)
        gone = max(moment.gone for moment in own)
        right = sum(not moment.wrong for moment in own if not moment.too_late)
        wrong = sum(bool(moment.wrong) for moment in own)
        lines.append(f"| {command} | {len(own) - late} | {late} | {right} | {times} | {gone:.2f} s | {wrong} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        bench.measure()
        fired = moments(options.times, options.seed, bench)
    print(machine())
    print(table(fired))
    sys.exit(any(moment.wrong for moment in fired))


if __name__ == "__main__":
    main()
