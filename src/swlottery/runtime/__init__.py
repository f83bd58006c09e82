"""What any long job needs: files, locks, checkpoints, ranks, signals, Slurm, hardware. Knows nothing of the lottery.

Imports only config and errors; every other room may import from here.
"""
