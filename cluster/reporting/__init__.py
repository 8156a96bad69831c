"""What a person or a machine is shown of a run: progress, events, metrics, status, the summary."""
