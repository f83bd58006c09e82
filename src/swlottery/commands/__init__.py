"""One module a command: from settings to an exit code.

Commands print, write files and may import every room below; nothing but ``cli.py`` and ``api.py`` imports them.
"""
