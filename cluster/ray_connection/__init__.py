"""The way to a Ray cluster: sessions, tokens, job submission."""
