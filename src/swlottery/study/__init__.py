"""Studies of many runs: grid (file → points), naming (settings → folder), states, sweep (points → jobs), statistics.

May import watch/, lottery/ and what is below; knows nothing of how runs are shown.
"""
