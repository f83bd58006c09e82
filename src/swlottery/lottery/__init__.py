"""The method: the loop of train, prune and rewind, and all that it is made of.

It takes a network, masks, data and settings. What happens goes out through two protocols, `Recorder` and `Keeper`.
Imports find/, models/, data/, runtime/ and config; never watch/, report/ or commands/, which import from here.
"""
