"""The files that a run reads, without its simulated attackers: the clients' files and the server's own data."""
