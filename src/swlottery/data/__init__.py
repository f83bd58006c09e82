"""Text for training and evaluation: source → pieces → tokens → shards → `Tokens` → batches; evaluation windows.

Imports only runtime, config and errors; every room above may import from here.
"""
