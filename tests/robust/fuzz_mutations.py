"""Mutations of a file: of its bytes, and of what they mean. Hypothesis draws them, so that a seed repeats them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]
Mutation = Callable[[Draw, bytes], bytes]

NASTY = b"\0|\xff\xfe|\xef\xbb\xbf|\r\n|\r|\x1b[31m|\n\n|\"|'|\\|{|]|,|:|- |<script>|-1|NaN".split(b"|")
NASTY += [b"\xe2\x80\xa8", b"\xc2\x85\v", b"\xed\xa0\x80", bytes(64), b"9" * 5000, b"[" * 100_000]
SIZES = [0, 1, -1, 2, 7, 100, -(2**63), 10**30]
SIZES += [2**n + more for n in (15, 31, 32, 53, 62, 63, 64) for more in (-1, 0)]
WORDS = "|0|2|-1|1e9|nan|true|None|auto|a b|../x|/dev/null|a\0b|a\nb|<b>&amp;|%j|~|m|gpt2|t.txt|\u202e\ud800".split("|")  # noqa: SIM905
WORDS += ["x" * 300, "é" * 100_000]
NUMBERS = [0.5, -0.0, 1e-320, 1e16, 1.8e308, *map(float, ("nan", "inf", "-inf"))]
ODD = [None, True, False, *SIZES, *NUMBERS, *WORDS, [], {}, [[]], [None], ["", 0], {"": {}}, {"a": [1]}]
RAW = {"list": "[" * 50_000 + "]" * 50_000, "dict": '{"a":' * 50_000 + "1" + "}" * 50_000, "digits": "9" * 5000}
RAW |= {"long": '"' + "x" * 10**6 + '"', "zeros": "[" + "0," * 100_000 + "0]", "nothing": "", "comma": "1,"}
RAW |= {"exponent": "1e999999", "half": '"\\ud800"', "escape": '"\\u00"'}
"""What no JSON library writes."""
KINDS = "flip set cut behead delete insert nasty again swap zero huge".split()  # noqa: SIM905
TREE = "tweak tweak tweak drop again rename swap new".split()  # noqa: SIM905
LINES = "value value value value drop again swap whole".split()  # noqa: SIM905


def index(draw: Draw, length: int) -> int:
    return draw(st.integers(0, max(length - 1, 0)))


def damaged(draw: Draw, base: bytes) -> bytes:
    """One to three changes of the bytes."""
    data = bytearray(base)
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        start = index(draw, len(data))
        end = min(len(data), start + draw(st.sampled_from([1, 1, 2, 8, 64, 1000])))
        match draw(st.sampled_from(KINDS)):
            case "flip" if data:
                data[start] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[start] = draw(st.integers(0, 255))
            case "cut":
                del data[start:]
            case "behead":
                del data[:start]
            case "delete":
                del data[start:end]
            case "insert":
                data[start:start] = draw(st.binary(min_size=1, max_size=8))
            case "nasty":
                data[start:start] = draw(st.sampled_from(NASTY))
            case "again":
                data[start:start] = data[start:end]
            case "swap":
                other = index(draw, len(data))
                data[start:end], data[other : other + end - start] = data[other : other + end - start], data[start:end]
            case "zero":
                data[start:end] = bytes(end - start)
            case "huge":
                data[start:start] = bytes(data[start:end] or b"x") * draw(st.sampled_from([1000, 100_000]))
            case _:
                data += b"x"
    return bytes(data[: 64 << 20])


# JSON


def odd(draw: Draw) -> Any:
    """A value that a reader may not expect."""
    match draw(st.integers(0, 9)):
        case 0:
            return f"@@raw:{draw(st.sampled_from(sorted(RAW)))}@@"
        case 1:
            return draw(st.text(max_size=20))
        case 2:
            return draw(st.integers() | st.floats())
        case _:
            return draw(st.sampled_from(ODD))


def altered(draw: Draw, value: Any) -> Any:
    """A tree of JSON with one change: of a value, a key, or the order. Keys that stand there twice: `text_of`."""
    if not isinstance(value, dict | list) or not value:
        return _tweaked(draw, value)
    key = draw(st.sampled_from(list(value))) if isinstance(value, dict) else index(draw, len(value))
    inner = value[key]
    if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
        fresh = altered(draw, inner)
        return {**value, key: fresh} if isinstance(value, dict) else [*value[:key], fresh, *value[key + 1 :]]
    match draw(st.sampled_from(TREE)):
        case "tweak":
            return _with(value, key, _tweaked(draw, inner))
        case "drop" if isinstance(value, dict):
            return {name: one for name, one in value.items() if name != key}
        case "drop":
            return [*value[:key], *value[key + 1 :]]
        case "again" if isinstance(value, dict):
            return {**value, f"{key}@@again": odd(draw)}
        case "again":
            return [*value[:key], inner, *value[key:]]
        case "rename" if isinstance(value, dict):
            names = [f"{key}x", "", "__class__", str(key).upper(), "a.b", "../x"]
            other = draw(st.sampled_from(names) | st.text(max_size=5))
            return {other if name == key else name: one for name, one in value.items()}
        case "swap":
            other = draw(st.sampled_from(list(value))) if isinstance(value, dict) else index(draw, len(value))
            return _with(_with(value, key, value[other]), other, inner)
        case "new" if isinstance(value, dict):
            return {**value, draw(st.text(max_size=5)): odd(draw)}
        case _:
            return value * 50 if isinstance(value, list) else {**value, key: [inner]}


def _with(value: Any, key: Any, fresh: Any) -> Any:
    copy = value.copy()
    copy[key] = fresh
    return copy


def _tweaked(draw: Draw, value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool) and draw(st.booleans()):
        return draw(
            st.sampled_from([value + 1, value - 1, -value, value * 2, value * 1000, value / 2, str(value), [value]])
        )
    if isinstance(value, str) and value and draw(st.booleans()):
        return draw(
            st.sampled_from(
                [value + " ", value[:-1], value.upper(), value[:1000] * 1000, [value], {value: value}, value + "\0"]
            )
        )
    return odd(draw)


def text_of(value: Any, raw: dict[str, str] = RAW) -> str:
    """JSON with what no JSON library writes: keys twice, and raw pieces."""
    text = json.dumps(value, indent=1).replace('@@again"', '"')
    for name, piece in raw.items():
        text = text.replace(f'"@@raw:{name}@@"', piece)
    return text


def changed_json(draw: Draw, base: bytes) -> bytes:
    value = json.loads(base)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        value = altered(draw, value)
    return text_of(value).encode("utf-8", "surrogatepass")


def changed_lines(draw: Draw, base: bytes) -> bytes:
    """JSON lines: of a line the value, or the lines' order."""
    lines = base.splitlines()
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        at, other = index(draw, len(lines)), index(draw, len(lines))
        match draw(st.sampled_from(LINES)):
            case "drop":
                del lines[at]
            case "again":
                lines.insert(other, lines[at])
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "whole":
                lines[at] = text_of(odd(draw)).encode("utf-8", "surrogatepass")
            case _:
                try:
                    value = json.loads(lines[at])
                except (ValueError, RecursionError):
                    continue
                lines[at] = text_of(altered(draw, value)).replace("\n", "").encode("utf-8", "surrogatepass")
        if not lines:
            break
    return b"".join(line + b"\n" for line in lines)


def mutation(change: Mutation | None) -> Mutation:
    """Bytes or, more often, what they mean."""

    def mutate(draw: Draw, base: bytes) -> bytes:
        if change is None or draw(st.integers(0, 4)) < 2:
            return damaged(draw, base)
        fresh = change(draw, base)
        return damaged(draw, fresh) if draw(st.integers(0, 19)) == 19 else fresh

    return mutate
