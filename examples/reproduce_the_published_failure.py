"""The published "complete SAE failure" again, in about ten seconds and without Ray: is it the SAE that fails?

A dissertation reported, from one seed, that the SAE on a 10-5-10 autoencoder fails completely at sparsity 0.9.
This script asks three questions, in the order in which any such report should be checked.
"""

from analysis import diagnose, failure_rates
from study import run_here

SEED = 123  # the published one
STUDY = {
    "name": "published-failure",
    "protocol": "dissertation",  # the dissertation's own procedure, to the digit
    "space": {"architectures": ["10-5-10"], "sparsities": [0.9], "l1": [0.01], "seeds": "0:400"},
}

rows = run_here(STUDY).to_pandas()

# 1. Was the autoencoder healthy? An SAE can recover nothing from a bottleneck that holds nothing.
published = rows.set_index("seed").loc[SEED]
print(f"Seed {SEED}: {published['failure']}.")
print(f"  The autoencoder's loss is {published['ae_loss']:.4f}; a bias alone reaches {published['ae_loss_bias_only']:.4f}.")
print(f"  {published['ae_dead_outputs']:.0f} of its 10 outputs are dead, before any SAE is trained.")

# 2. How often does it happen? The seed that was reported because it fails does not count.
others = rows[rows["seed"] != SEED]
cell = others[["architecture", "sparsity", "l1"]].drop_duplicates()
rate = failure_rates(others, cell, "ae_collapsed", confidence=0.95).iloc[0]
print(f"Other seeds: {rate['rate']:.1%} collapse, 95 % interval {rate['low']:.1%} to {rate['high']:.1%}, of {rate['replicates']}.")

# 3. Why? One thing is changed at a time; what cures the failure is part of its cause.
diagnosis = diagnose("10-5-10", 0.9, 0.01, SEED)
print(f"Cause: {diagnosis.cause.value}")
for change, change_rate, cures in diagnosis.rates():
    if cures:
        print(f"  cured by {change}: fails in {change_rate.failures} of {change_rate.replicates}")
