"""What a run reads: the clients' files, the server's own data, and the files of a generated world."""
