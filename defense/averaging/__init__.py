"""How the two factors of a LoRA module, whose delta is B A, are averaged over clients.

`factors`, the paper's way, averages A and B apart: simple, works with every rule, and is not the mean of the B A. `ffa`
(`ffa.py`) freezes A, where both are the same. `svd` (`svd.py`) takes the best approximation of the mean of the B A.
"""
