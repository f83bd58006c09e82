"""The page of a study: runs and stored tables (facts, rows, stored) → a study by arms → answers → HTML and Markdown.

One function a question, listed in `questions`; `make.make` writes the page. May import what is below report/, and
report's own logs and figures; only commands import it.
"""
