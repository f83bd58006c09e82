"""The report on many runs: facts → answers → one page."""
