"""`safe-fedllm doctor`: does this machine, and does every node of the cluster, have what a run needs?"""
