"""The actors of a run: where they are placed, how they start, end, and are replaced."""
