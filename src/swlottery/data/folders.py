"""Folders of text: which of their files are read, and which are left out."""

from __future__ import annotations

import os
from pathlib import Path

from swlottery.data.hub import TEXT_SUFFIXES
from swlottery.errors import BadInput


def text_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The text files of a folder at any depth, in the order of their relative paths; and the paths of what is left out.

    Links to folders are followed, but no folder is read twice, and none above this one: a loop of links ends. Raises
    `BadInput` for a folder without text or that cannot be read, and for a text that is no regular file, such as a pipe.
    """
    found, left_out = list[Path](), list[Path]()
    folders, links, seen = [folder], list[Path](), set(Path(os.path.realpath(folder)).parents)
    while folders or links:  # links last: a folder that is also linked to is read under its own name
        place = folders.pop() if folders else links.pop(0)
        if (real := Path(os.path.realpath(place))) in seen:
            left_out.append(place)
            continue
        seen.add(real)
        try:
            for path in sorted(place.iterdir()):
                if path.name.startswith("."):
                    left_out.append(path)
                elif path.is_dir():
                    (links if path.is_symlink() else folders).append(path)
                else:
                    (found if path.suffix.lower() in TEXT_SUFFIXES else left_out).append(path)
        except OSError as error:
            raise unreadable(place, error) from error
    if not found:
        raise BadInput(f"folder {folder} holds no {', '.join(TEXT_SUFFIXES)} file: give a file, or another folder")
    by_name = [sorted(path.relative_to(folder).as_posix() for path in paths) for paths in (found, left_out)]
    return [regular(folder / name) for name in by_name[0]], by_name[1]


def regular(path: Path) -> Path:
    """The path, of a file. `BadInput` for a pipe or a device, which cannot be read twice, and for a broken link."""
    if path.is_symlink() and not path.exists():
        raise BadInput(f"{path} is a link to nothing: remove or mend it")
    if not path.is_file():
        raise BadInput(f"{path} is no regular file: copy what it holds into one")
    return path


def unreadable(path: Path, error: OSError) -> BadInput:
    """What to raise where a file or folder of text cannot be read."""
    return BadInput(f"{path} cannot be read ({error.strerror}): check its permissions, or give another")
