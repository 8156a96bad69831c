"""The trackers that users already look at: what a run tells each of them, and how."""
