"""The logs: of a search (`find`), a training (`train`), the making of tokens (`prepare`); the table of runs (`status`).

A log takes events as values and prints lines. It imports `report.words` and values from the rooms below.
"""
