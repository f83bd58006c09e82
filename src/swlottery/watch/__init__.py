"""What is recorded of a run: the tracked weights and their controls, as events and as rows of its tables.

It takes `Snapshot`s, which are values, and never changes a weight. Where its events go is the sink's affair.
Imports lottery/, find/, models/, data/ and config; neither report/ and commands/ nor the files of runtime/.
"""
