"""What an experiment simulates: attackers, and honest clients that differ. The defense and honest clients know nothing of it."""
