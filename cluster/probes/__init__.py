"""A probe's life on the cluster: samples collected, a probe trained and measured, refreshed and watched in a run."""
