"""How this machine reaches a Ray cluster: connections, tokens, submitted jobs."""
