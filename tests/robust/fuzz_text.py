"""Mutations of what the text of a YAML file or a table means."""

from __future__ import annotations

import csv
import io

import yaml
from fuzz_mutations import ODD, RAW, Draw, altered, index, text_of
from hypothesis import strategies as st

YAML = """\
!!python/object/apply:os.system ['touch pwned']
&a [*a]
*unknown
2001-01-01
2001-13-45
0o8
1:99:99
!!binary é
!!int abc
!!float x
!!bool x
!!timestamp x
!!null x
!!set {a, b}
!!omap [a: 1]
!<tag:yaml.org,2002:int> x
!x y
{<<: [1]}
{[1, 2]: 3}
{{a: 1}: 2}
? a
%
@
&a &b
""".splitlines()
YAML += ["\t", "|\n   x"]
BOMB = [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}' if n else '1'] * 9)}]" for n in range(9)]
BETWEEN = ["---", "...", "%YAML 9.9", "# \x07", "<<: *x", "key", "[", "- 1"]
LINES = "value value value again drop swap indent document bomb".split()  # noqa: SIM905
CHANGES = "cell cell cell cell row rows again short long column head copy".split()  # noqa: SIM905
CELLS = '|0|-1|1|1.5|nan|inf|-inf|1e308|1e-320|2147483648|x|a,b|"|a\nb|True|False|None|1:2:3'.split("|")  # noqa: SIM905
CELLS += ["(1, 2, 3)", "(0, 0)", "<b>", "\0", "é" * 50_000, "9" * 400, "{}", "[]", '{"a": NaN}', " 1"]


def changed_yaml(draw: Draw, base: bytes) -> bytes:
    if draw(st.integers(0, 2)) == 0:
        return _changed_yaml_lines(draw, base)
    value = yaml.safe_load(base)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        value = altered(draw, value)
        if not isinstance(value, dict):
            break
    raw = {**RAW, "nothing": draw(st.sampled_from(YAML)), "comma": draw(st.sampled_from(YAML))}
    if not isinstance(value, dict):
        return text_of(value, raw).encode("utf-8", "surrogatepass")
    parts = (f"{text_of(str(key))}: {text_of(one, raw)}\n" for key, one in value.items())
    return "".join(parts).replace('@@again"', '"').encode("utf-8", "surrogatepass")


def _changed_yaml_lines(draw: Draw, base: bytes) -> bytes:
    lines = base.decode().splitlines()
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        at, other = index(draw, len(lines)), index(draw, len(lines))
        match draw(st.sampled_from(LINES)):
            case "value":
                value = draw(st.sampled_from(YAML) | st.sampled_from(ODD).map(lambda one: text_of(one, RAW)))
                lines[at] = f"{lines[at].partition(':')[0]}: {value}"
            case "again":
                lines.insert(other, lines[at])
            case "drop":
                del lines[at]
                lines = lines or [""]
            case "swap":
                lines[at], lines[other] = lines[other], lines[at]
            case "indent":
                lines[at] = draw(st.sampled_from([" ", "  ", "\t", "- ", "? "])) + lines[at]
            case "document":
                lines.insert(at, draw(st.sampled_from(BETWEEN)))
            case _:
                lines = [*BOMB, *lines, f"{draw(st.sampled_from(['prompt', 'lr', 'grid', 'name', 'follow']))}: *x8"]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def changed_csv(draw: Draw, base: bytes) -> bytes:
    """A table with changed cells, rows or columns."""
    rows = list(csv.reader(io.StringIO(base.decode())))
    for _ in range(draw(st.sampled_from([1, 1, 2, 4, 8]))):
        row, column = index(draw, len(rows)), 0
        if not rows or not rows[row] or not rows[0]:
            break
        column, other = index(draw, len(rows[row])), index(draw, len(rows))
        match draw(st.sampled_from(CHANGES)):
            case "cell":
                rows[row][column] = draw(st.sampled_from(CELLS) | st.text(max_size=8))
            case "row":
                del rows[row]
            case "rows":
                rows[row], rows[other] = rows[other], rows[row]
            case "again":
                rows.insert(other, list(rows[row]))
            case "short":
                del rows[row][column:]
            case "long":
                rows[row] += [draw(st.sampled_from(CELLS))] * draw(st.sampled_from([1, 3, 1000]))
            case "column":
                rows = [[cell for n, cell in enumerate(one) if n != column] for one in rows]
            case "head":
                rows[0][column % max(len(rows[0]), 1)] = draw(st.sampled_from([*rows[0], "x", ""]))
            case _:
                value = draw(st.sampled_from(CELLS))
                rows = [rows[0], *([*one[:column], value, *one[column + 1 :]] for one in rows[1:])]
    text = io.StringIO()
    csv.writer(text, lineterminator=draw(st.sampled_from(["\n", "\n", "\n", "\r\n"]))).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")
