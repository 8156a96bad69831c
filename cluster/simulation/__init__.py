"""What an experiment pretends: attackers, honest clients that differ, and the embedded world. The defense sees none of it."""
