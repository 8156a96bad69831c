"""What an experiment pretends: attackers and honest clients that differ. Nothing of the defense is told of it."""
