"""`safe-fedllm doctor`: what a run needs, and whether this machine and every node of the cluster have it."""
