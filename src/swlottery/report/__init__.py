"""What people read of runs: logs, figures, and the page on a study.

logs/ takes events as values; figures/ and page/ read only files. May be imported by commands/ alone; imports all rooms
below.
"""
