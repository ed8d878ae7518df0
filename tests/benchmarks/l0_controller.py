"""How exactly, and how soon, l1 is steered to a target L0: `python -m tests.benchmarks.l0_controller [SEEDS]`.

Prints four tables in Markdown; asserts nothing. `sound` with a constant learning rate, minibatches of 256 and 4,000 SAE steps,
float32. The right l1 of a target is the one that, held constant, ends at it in the median over seeds. Default: 32 seeds, which take
about four minutes on one core.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pandas as pd

from search_spaces import PROTOCOLS, Protocol, grid
from study.packs import Pack
from study.run_pack import run_pack
from tests.benchmarks.machine import machine

CELLS = {("10-5-10", 0.9): (0.4, 0.8, 1.5), ("20-5-20", 0.95): (0.4, 0.8)}
"""Architecture and sparsity: targets."""
CUTS = tuple(range(500, 4001, 500))
"""Steps after which L0 is looked at: a training of so many, which begins as the long one does."""
SOUND = dataclasses.replace(PROTOCOLS["sound"], sae_batch_size=256, sae_schedule="constant", sae_steps=CUTS[-1])
SMALL = dataclasses.replace(SOUND, sae_init_std=0.01, sae_decoder_init="normal", sae_encoder_init="normal", sae_decoder_norm="free")
SCAN = np.geomspace(5e-3, 2.0, 14).tolist()
OUT_OF_REACH = (("10-5-10", 0.9, 7.0), ("10-5-10", 0.9, 0.001), ("20-5-20", 0.95, 12.0))


def measured(architecture: str, sparsity: float, l1s: list[float], seeds: int, protocol: Protocol) -> pd.DataFrame:
    """The rows of every l1 and seed."""
    (replicates,) = grid([architecture], [sparsity], l1s, range(seeds))
    return run_pack(Pack(replicates, protocol, "float32", "compiled")).to_pandas()


def off_target(architecture: str, sparsity: float, l1s: list[float], seeds: int, target: float, **changes: object) -> np.ndarray:
    """L0/target − 1 of steered SAEs, (l1, seeds)."""
    protocol = dataclasses.replace(SOUND, sae_target_l0=target, **changes)
    rows = measured(architecture, sparsity, l1s, seeds, protocol)
    return np.stack([rows.loc[rows["l1"] == l1, "l0"] / target - 1 for l1 in l1s])


def accuracy(seeds: int) -> None:
    """Starts ten times too small and too large, and the closed form's."""
    heads = ("cell", "target", "start", "l1", "held there", "median", "worst", "within 5 %", "of its samples", "steps to stay")
    print(f"| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for (architecture, sparsity), targets in CELLS.items():
        cell = architecture, sparsity
        curve = measured(*cell, SCAN, seeds, SOUND).groupby("l1")["l0"].median()
        for target in targets:
            right = float(np.exp(np.interp(-target, -curve.to_numpy(), np.log(curve.index))))
            l1s = [right / 10, right * 10, 0.0]
            off = np.stack([off_target(*cell, l1s, seeds, target, sae_steps=steps) for steps in CUTS])  # (cuts, l1, seeds)
            of_samples = off_target(*cell, l1s, seeds, target, eval_samples=None)
            held = measured(*cell, l1s, seeds, SOUND).groupby("l1")["l0"].median() / target - 1
            for place, start in enumerate(("right / 10", "right × 10", "closed form")):
                last, outside = off[-1, place], np.flatnonzero(np.abs(np.median(off[:, place], axis=1)) > 0.05)
                stays = CUTS[0] if not len(outside) else CUTS[outside[-1] + 1] if outside[-1] + 1 < len(CUTS) else "–"
                cells = (
                    f"{architecture}, S = {sparsity}", target, start, f"{l1s[place]:.3g}" if l1s[place] else "–",
                    f"{held[l1s[place]]:+.0%}" if l1s[place] else "–", f"{np.median(last):+.1%}", f"{np.abs(last).max():.1%}",
                    f"{np.mean(np.abs(last) <= 0.05):.0%}", f"{np.mean(np.abs(of_samples[place]) <= 0.05):.0%}", stays,
                )  # fmt: skip
                print(f"| {' | '.join(map(str, cells))} |", flush=True)


def outcomes(rows: pd.DataFrame) -> str:
    """How often each outcome occurred."""
    return ", ".join(f"{kind} {count}" for kind, count in rows["l0_outcome"].value_counts().items())


def out_of_reach(seeds: int) -> None:
    """Targets that no l1 reaches."""
    print("\n| cell | target | start | outcomes | L0, median |\n| --- | --- | --- | --- | --- |")
    for architecture, sparsity, target in OUT_OF_REACH:
        for l1 in (0.01, 10.0):
            rows = measured(architecture, sparsity, [l1], seeds, dataclasses.replace(SOUND, sae_target_l0=target))
            cell = f"{architecture}, S = {sparsity} | {target:g} | {l1:g}"
            print(f"| {cell} | {outcomes(rows)} | {rows['l0'].median():.3g} |", flush=True)


def dead_starts(seeds: int) -> None:
    """Starts that kill every latent if held constant; also with small initial weights, which a smaller l1 kills."""
    heads = ("initial weights", "start", "all dead if held", "all dead", "outcomes", "L0, median")
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, protocol in (("of `sound`", SOUND), ("normal(0, 0.01), decoder free", SMALL)):
        for l1 in (0.1, 1.0, 10.0):
            held = measured("10-5-10", 0.9, [l1], seeds, protocol)
            steered = measured("10-5-10", 0.9, [l1], seeds, dataclasses.replace(protocol, sae_target_l0=0.8))
            dead = " | ".join(f"{(rows['dead_latents'] == rows['n_latents']).sum()} of {seeds}" for rows in (held, steered))
            print(f"| {name} | {l1:g} | {dead} | {outcomes(steered)} | {steered['l0'].median():.3g} |", flush=True)


def under_cosine(seeds: int) -> None:
    """Unchanged `sound`, from the closed form: the learning rate falls to 0, and L0 still falls when l1 no longer affects it."""
    print("\n| cell | target | median | worst | within 5 % |\n| --- | --- | --- | --- | --- |")
    for (architecture, sparsity), targets in CELLS.items():
        for target in targets:
            rows = measured(architecture, sparsity, [0.0], seeds, dataclasses.replace(PROTOCOLS["sound"], sae_target_l0=target))
            off = rows["l0"] / target - 1
            figures = f"{off.median():+.1%} | {off.abs().max():.1%} | {np.mean(off.abs() <= 0.05):.0%}"
            print(f"| {architecture}, S = {sparsity} | {target} | {figures} |", flush=True)


def main() -> None:
    """Measure and print."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 32
    print(f"{machine()}; {seeds} seeds a row\n")
    accuracy(seeds)
    out_of_reach(seeds)
    dead_starts(seeds)
    under_cosine(seeds)


if __name__ == "__main__":
    main()
