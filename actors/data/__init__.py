"""Clients' data: reading files, prompts and responses, batches, splitting one data set over clients."""
