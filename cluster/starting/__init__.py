"""The folder that a new federation begins with: a commented configuration, and a place for data."""
