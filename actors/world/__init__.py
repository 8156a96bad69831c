"""The embedded world: a generator of harmless instructions, an aligned base model, a probe, and their shipped files."""
