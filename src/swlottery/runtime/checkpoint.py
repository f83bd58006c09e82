"""Checkpoints: tensors, and a manifest with their hash. Two are kept; a damaged one is named and passed over.

One is taken between two steps, and written while the next are taken. What it does not hold is in files that never
change, whose hashes its manifest has, or is a function of the settings.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.errors import BadInput
from swlottery.runtime import files, sums
from swlottery.runtime.files import file_sha256

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2
_NAME = re.compile(r"checkpoint_(\d+)_(\d+)")


class Writer:
    """Writes checkpoints beside the training, one at a time. place: (round, step) of the newest that is on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.place: tuple[int, int] | None = None
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save(self, round_: int, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """`save` these tensors as they are now, whatever becomes of them; the state is to be left alone.

        Waits for the checkpoint before, and raises what went wrong with it.
        """
        self.wait()
        copies, copied = _copies(tensors)

        def write() -> None:
            copied()
            save(self.folder, round_, step, copies, state)
            self.place = round_, step

        self._writing = self._thread.submit(write)

    @property
    def failed(self) -> bool:
        """Whether `wait` would raise something at once."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Come back when nothing is being written. Raises, once, what went wrong with it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Come back when nothing is being written, for an end that has a reason of its own."""
        self._thread.shutdown()


def save(folder: Path, round_: int, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write one checkpoint, and keep of the others those just before it, `KEPT` in all.

    What lies ahead is damaged: a run goes on from the newest sound one. The manifest is written last: a checkpoint
    without one was cut off, and is none.
    """
    stem = folder / f"checkpoint_{round_}_{step}"
    tensor_file, manifest = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    with contextlib.suppress(OSError):
        manifest.unlink()  # replayed steps may meet their own checkpoint, damaged
    files.write_tensors(tensor_file, tensors)
    content = {**state, "round": round_, "step": step, "sha256": file_sha256(tensor_file)}
    files.write_json(manifest, sums.sealed(content))
    stems = [path.stem for path in manifests(folder)]
    first = stems.index(stem.name)
    for path in folder.iterdir():
        if path.stem not in stems[first : first + KEPT]:
            with contextlib.suppress(OSError):  # NFS keeps a file `.nfs…` of what is open somewhere
                path.unlink()


def newest(
    folder: Path, complain: Callable[[str], None], damaged: Callable[[dict[str, Any]], str | None] = lambda state: None
) -> Path | None:
    """The newest sound checkpoint, for `read`; None where there is none. Damaged ones are named to ``complain``.

    damaged: the name of a damaged file that a state needs, or None.

    Raises `BadInput` where a file cannot be read now, and where only such a needed file is damaged: to begin anew
    would write over what is sound.
    """
    lacking: list[str] = []
    try:
        for manifest in manifests(folder):
            tensor_file = manifest.with_suffix(".safetensors")
            try:
                state = sums.read_sealed(manifest)
                if file_sha256(tensor_file) != state["sha256"]:
                    raise ValueError("its hash is not the one in its manifest")
                if (needed := damaged(state)) is None:
                    return manifest
                lacking.append(needed)
                complain(f"{needed} is damaged, which {manifest.stem} needs: going back to the one before")
            except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
                complain(f"checkpoint {tensor_file} is damaged ({error}): going back to the one before")
    except OSError as error:
        what = error.filename or folder.parent
        raise BadInput(f"cannot use {what} ({error.strerror}): nothing was changed, run the same again") from None
    if lacking:
        raise BadInput(
            f"{folder.parent / lacking[0]} is damaged, and the saved work needs it: take it from a copy, or remove "
            f"{folder.parent} to begin anew"
        )
    return None


def read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(state, tensors) of a sound checkpoint."""
    from safetensors.torch import load_file

    return sums.read_sealed(checkpoint), load_file(checkpoint.with_suffix(".safetensors"))


def clear(folder: Path) -> None:
    """Remove all checkpoints: the run is finished."""
    shutil.rmtree(folder, ignore_errors=True)


def _copies(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """Copies in the host's memory, and a function that comes back when they are complete.

    A GPU makes them behind what it was given before, and ahead of the next step; nobody else waits for it.
    """
    import torch

    copies = {}
    for name, tensor in tensors.items():
        given = tensor.detach()
        if given.is_cuda:
            copies[name] = torch.empty(given.shape, dtype=given.dtype, pin_memory=True).copy_(given, non_blocking=True)
        else:
            copies[name] = given.cpu().clone(memory_format=torch.contiguous_format)
    if not any(tensor.is_cuda for tensor in tensors.values()):
        return copies, lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()  # on the stream of the current device, which is the run's (`hardware.make_current`)
    return copies, event.synchronize


def manifests(folder: Path) -> list[Path]:
    """The manifests, newest first."""
    there = [path for path in folder.iterdir() if path.suffix == ".json"]  # unlike glob, it hides no error
    found = {match: path for path in there if (match := _NAME.fullmatch(path.stem))}
    newest_first = sorted(found, key=lambda match: (int(match[1]), int(match[2])), reverse=True)
    return [found[match] for match in newest_first]
