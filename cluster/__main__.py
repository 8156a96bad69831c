"""`python -m cluster`: the command line without an installed script, as inside a Ray job."""

from cluster.cli import main

main()
