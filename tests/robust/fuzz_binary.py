"""Mutations of binary headers, of safetensors and GGUF: the fields stay what they are, and say something else."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator

from fuzz_mutations import SIZES, Draw, altered, index, text_of
from hypothesis import strategies as st

CHANGES = "offset dtype shape shapes same swap names drop tree meta".split()  # noqa: SIM905
DTYPES = [*"F64 F32 F16 BF16 I64 I32 I8 U8 BOOL F8_E4M3 F4 C64 f32".split(), ""]  # noqa: SIM905
SHAPES = [[], [0], [2**33, 2**33], [2**63, 2]]
METADATA = [{}, {"format": "tf"}, {"format": "mlx"}, {"format": 1}, None, [], {"a": {}}]
TEXTS = [b"", b"\xff\xfe", b"a\0b", b"../x", b"<unk>", b"llama", b"gpt2", b"bert"]
ALIGNMENT = 32


# safetensors


def changed_safetensors(draw: Draw, base: bytes) -> bytes:
    """Another header over the same data: offsets, precisions, shapes, names; or another length of it."""
    size = int.from_bytes(base[:8], "little")
    header, data = json.loads(base[8 : 8 + size]), base[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        if not isinstance(header.get(name), dict) or not isinstance(header.get(other), dict):
            break
        one = header[name] = json.loads(json.dumps(header[name]))
        match draw(st.sampled_from(CHANGES)):
            case "offset":
                one["data_offsets"][draw(st.integers(0, 1))] += draw(st.sampled_from([1, -1, 4, -4, 64, *SIZES]))
            case "dtype":
                one["dtype"] = draw(st.sampled_from(DTYPES))
            case "shape":
                at = index(draw, len(one["shape"]))
                one["shape"][at : at + 1] = [draw(st.sampled_from(SIZES))]
            case "shapes":
                shape = one["shape"]
                one["shape"] = draw(st.sampled_from([shape[::-1], [*shape, 1], [1] * 200 + shape, *SHAPES]))
            case "same":
                one["data_offsets"] = header[other]["data_offsets"]
            case "swap":
                header[name], header[other] = header[other], one
            case "names":
                fresh = draw(st.sampled_from([f"{name}.x", name.upper(), "", "x" * 10_000, f"{name}@@again", other]))
                header = {fresh if key == name else key: value for key, value in header.items()}
            case "drop":
                del header[name]
            case "meta":
                header["__metadata__"] = draw(st.sampled_from(METADATA))
            case _:
                header = altered(draw, header)
                if not isinstance(header, dict):
                    break
        names = [key for key in header if key != "__metadata__"] or ["x"]
    text = text_of(header).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    lengths = [len(text)] * 12 + [0, 1, len(text) + 8, len(text) - 1, 2**31, 2**63, 2**64 - 1, 100_000_001]
    return draw(st.sampled_from(lengths)).to_bytes(8, "little") + text + data


# GGUF


def changed_gguf(draw: Draw, base: bytes) -> bytes:
    """Other numbers, names and types in the header of a GGUF file."""
    fields = list(gguf_fields(base))
    head = fields[-1][1]
    data = base[-(-head // ALIGNMENT) * ALIGNMENT :]
    base = base[:head]
    elements = [one for one in fields if one[2] == "element"]
    fields = [one for one in fields if one[2] != "element"] + elements[:: len(elements) // 20 + 1]
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        start, end, kind = draw(st.sampled_from(fields))
        if kind == "text":
            text = base[start + 8 : end]
            fresh = draw(st.sampled_from([text[:-1], text + b"x", text.upper(), text * 1000, *TEXTS]))
            fresh = draw(st.sampled_from([fresh, text.replace(b"blk.0", b"blk.1"), text.replace(b"weight", b"bias")]))
            length = draw(st.sampled_from([len(fresh)] * 9 + [len(fresh) + 1, 2**40, 2**63]))
            piece = length.to_bytes(8, "little") + fresh
        else:
            width = end - start
            value = int.from_bytes(base[start:end], "little")
            small = [value + 1, value - 1, value * 2, value + 32, *range(14), *SIZES]
            piece = (draw(st.sampled_from(small)) % 2 ** (8 * width)).to_bytes(width, "little")
            if kind == "value" and width in (4, 8) and draw(st.booleans()):
                number = draw(st.sampled_from([0.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")]))
                piece = struct.pack("<f" if width == 4 else "<d", number)
        base = base[:start] + piece + base[end:]
        if len(piece) != end - start:
            break  # the fields behind have moved
    return base + bytes(-len(base) % ALIGNMENT) + data


def gguf_fields(data: bytes) -> Iterator[tuple[int, int, str]]:
    """(start, end, kind) of what the header of a sound GGUF file is made of; a text with its length."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    at = 0

    def number(width: int, kind: str) -> Iterator[tuple[int, int, str]]:
        nonlocal at
        at += width
        yield at - width, at, kind

    def text(kind: str = "text") -> Iterator[tuple[int, int, str]]:
        nonlocal at
        start, at = at, at + 8 + int.from_bytes(data[at : at + 8], "little")
        yield start, at, kind

    def value(type_: int, kind: str) -> Iterator[tuple[int, int, str]]:
        nonlocal at
        if type_ == 8:
            yield from text("text" if kind == "value" else kind)
        elif type_ == 9:
            inner, count = struct.unpack_from("<IQ", data, at)
            yield from number(4, "type")
            yield from number(8, "count")
            for _ in range(count):
                yield from value(inner, "element")
        else:
            yield from number(sizes[type_], kind)

    tensors, keys = struct.unpack_from("<QQ", data, 8)
    for width, kind in ((4, "magic"), (4, "version"), (8, "count"), (8, "count")):
        yield from number(width, kind)
    for _ in range(keys):
        yield from text()
        type_ = int.from_bytes(data[at : at + 4], "little")
        yield from number(4, "type")
        yield from value(type_, "value")
    for _ in range(tensors):
        yield from text()
        dimensions = int.from_bytes(data[at : at + 4], "little")
        yield from number(4, "count")
        for _ in range(dimensions):
            yield from number(8, "size")
        yield from number(4, "type")
        yield from number(8, "offset")
