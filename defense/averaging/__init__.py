"""How the two factors of a LoRA module, whose delta is B A, are averaged over clients: `aggregation.averaging`.

`factors`, the paper's way, averages A and B apart: simple, works with every rule, and is not the mean of the B A. `ffa`
freezes A, where both are the same (`frozen_names` in `pairs.py`). `svd` (`svd.py`) takes the best approximation of the mean
of the B A.
"""
