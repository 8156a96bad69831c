"""What can be done with the adapter of a finished run: load it, try it, merge it into its base model."""
