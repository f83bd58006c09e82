"""swlottery: find the super weights of a causal language model and follow them through iterative magnitude pruning."""

__version__ = "0.2.0"
