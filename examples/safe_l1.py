"""Which l1 is safe? Search it at four sparsities and draw the intervals: `python examples/safe_l1.py [safe_l1.png]`.

Below the safe interval codes are dense; above it SAEs die or starve. Where the two overlap no l1 is safe: the remedy is
another protocol, not another l1. Try PROTOCOL = "sound".
"""

import sys

from analysis import recommend_l1
from analysis.figures.l1 import l1_figure
from analysis.searches.l1 import l1_sentences, l1_table
from search_spaces import PROTOCOLS

ARCHITECTURE = "10-5-10"
PROTOCOL = "dissertation"
SPARSITIES = (0.3, 0.5, 0.7, 0.9)

# float32 has the same statistics as float64 and trains 2.5 times faster.
found = [recommend_l1(ARCHITECTURE, sparsity, protocol=PROTOCOL, dtype="float32") for sparsity in SPARSITIES]
print(l1_table(found)[["sparsity", "lower_edge", "upper_edge", "best_l1", "best_recovery"]].to_string(index=False))
print(*l1_sentences(found, PROTOCOLS[PROTOCOL]), sep="\n")

picture = sys.argv[1] if len(sys.argv) > 1 else "safe_l1.png"
l1_figure(found).savefig(picture, dpi=150, bbox_inches="tight")
print(f"Figure: {picture}")
