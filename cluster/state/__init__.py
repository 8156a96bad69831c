"""A run between two rounds: its state, checkpoints, run directory, tables and members."""
