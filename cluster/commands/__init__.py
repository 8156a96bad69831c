"""The commands of `safe-fedllm`, a file per group of them; `cluster/cli.py` lists them all.

Heavy code is imported as a command runs.
"""
