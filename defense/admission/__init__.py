"""Admission: what a client sent is checked against the open round and the global adapter before it counts."""
