"""What a person or a machine is shown of a run: progress, events, metrics, tables, pictures, the summary."""
