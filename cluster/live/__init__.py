"""A run that goes on elsewhere: seen, and given orders, through its control actor."""
