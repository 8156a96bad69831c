"""The charts, a file each. Every function gives a chart, or none where there is nothing to draw."""
