"""`safe-fedllm compare`: a matrix of federations on Ray, one run directory per cell, closed by tables and pictures.

axes.py makes the cells, stored.py says what is done of them, room.py how many run at once, running.py runs them,
figures.py counts, files.py writes, matrix.py puts it together.
"""
