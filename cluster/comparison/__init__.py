"""`safe-fedllm compare`: a matrix of federations on Ray, one run directory per cell, closed by tables and a page.

compare.py runs it all. cells.py plans the cells from the command line, cell_directory.py finds what earlier commands left of
them, cell_runner.py runs them. outcome.py and groups.py hold the figures, intervals.py their statistics, tables.py the texts.
"""
