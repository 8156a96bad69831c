"""One round: train the clients, relay what they send by reference, refresh the probe, close the round."""
