"""Iterative magnitude pruning with rewinding: train → prune → rewind (see docs/method.md)."""
