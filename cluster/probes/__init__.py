"""`safe-fedllm probe`: samples collected on Ray, a probe trained and measured; and whether a probe suits a run."""
