"""Studies of many runs: grid (file → points), naming (settings → folder), states, sweep (points → jobs), statistics.

The room reads and starts runs, and knows nothing of how they are shown. May import watch/, lottery/ and what is below them.
"""
