#!/usr/bin/env python3
"""Pictures and tables from the results.json files of the GPU bundle.

report.py [--out FOLDER] [--readme README.md [--check]] [RESULTS...]

Writes FOLDER/index.html, a page that needs no other file, and each of its pictures as an SVG, and as a PNG where cairosvg, resvg or
rsvg-convert is installed. A file is the bundle's results.json or the peers.json of `make peers`. The newest is shown; all of them make
the history. With --readme the table between the two marks of that file is replaced: by what the newest
file with a GPU measured, or by a plain statement that there is none. --check changes nothing and fails if the table
is not up to date. The standard library is all that the rest needs.
"""

import argparse
import html
import json
import pathlib
import re
import shutil
import subprocess
import sys

import report_peers

BEGIN, END = "<!-- results: begin (make report) -->", "<!-- results: end -->"
NONE = "**No GPU result was taken yet.**"
COLOURS = ["#3366cc", "#dc6912", "#109618", "#990099", "#0099a8", "#b82e2e", "#667a00", "#7a4ea3"]


def load(path):
    """One results.json; an error names what is missing, so that half a file makes no half a picture."""
    result = json.loads(pathlib.Path(path).read_text())
    if "ceilings" in result:
        # A comparison with peers alone, which has not been through the bundle's `run`.
        result = {**{field: result.get(field) for field in ("revision", "date", "gpu", "ok")}, "bench": [], "peers": result}
    for field, kind in [("revision", str), ("date", str), ("gpu", str), ("ok", bool), ("bench", list)]:
        if not isinstance(result.get(field), kind):
            raise ValueError(f"{path}: \"{field}\" is missing or not a {kind.__name__}")
    for number, row in enumerate(result["bench"]):
        if missing := [field for field in ("device", "op", "dtype", "shape", "seconds") if field not in row]:
            raise ValueError(f"{path}: case {number} of \"bench\" lacks {', '.join(missing)}")
        if ("gb_per_s" in row) == ("tflop_per_s" in row):
            raise ValueError(f"{path}: case {number} of \"bench\" has to have one of gb_per_s and tflop_per_s")
    if "peers" in result:
        report_peers.check(result["peers"])
    return result


def speed(row):
    """(value, unit) of a case."""
    return (row["gb_per_s"], "GB/s") if "gb_per_s" in row else (row["tflop_per_s"], "TFLOP/s")


def text(x, y, words, anchor="start", size=12, colour="#222"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}">{html.escape(words)}</text>'


def picture(title, width, height, parts):
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="white"/>', text(12, 22, title, size=16), *parts, "</svg>", ""])


def bars(title, rows):
    """One horizontal bar per (name, percent); a line stands at 100."""
    left, scale, top = 400, 3.6, 40
    end = max([100.0] + [percent for _, percent in rows])
    parts = [f'<line x1="{left + 100 * scale}" y1="{top - 6}" x2="{left + 100 * scale}" y2="{top + 20 * len(rows)}" stroke="#999" stroke-dasharray="4 3"/>']
    for at, (name, percent) in enumerate(rows):
        y = top + 20 * at
        parts += [text(left - 8, y + 12, name, "end"),
                  f'<rect x="{left}" y="{y}" width="{percent * scale:.1f}" height="15" fill="{COLOURS[0]}"/>',
                  text(left + percent * scale + 5, y + 12, f"{percent:.1f} %")]
    return picture(title, round(left + end * scale + 80), top + 20 * len(rows) + 12, parts)


def lines(title, unit, ticks, series):
    """A line per name in `series`, each a list with a value or None for every tick; from zero upwards."""
    left, top, height, step = 70, 45, 260, 90
    right = left + step * max(1, len(ticks) - 1)
    most = max(value for values in series.values() for value in values if value is not None) or 1.0
    place = lambda at, value: (left + step * at, top + height * (1 - value / most))
    parts = [text(12, top - 6, unit, size=11)]
    for quarter in range(5):
        x, y = place(0, most * quarter / 4)
        parts += [f'<line x1="{x}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>', text(x - 6, y + 4, f"{most * quarter / 4:.4g}", "end", 11)]
    parts += [text(left + step * at, top + height + 18, tick, "middle", 11) for at, tick in enumerate(ticks)]
    for at, (name, values) in enumerate(sorted(series.items())):
        colour = COLOURS[at % len(COLOURS)]
        points = [place(i, value) for i, value in enumerate(values) if value is not None]
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        parts.append(text(right + 16, top + 16 * at + 10, name, colour=colour))
    return picture(title, right + 330, max(top + height + 30, top + 16 * len(series) + 20), parts)


def pictures(results):
    """{file name: SVG} of results that are ordered by date. A picture of nothing is left out."""
    newest, made = results[-1], {}
    if "peers" in newest:
        made |= report_peers.pictures(newest["peers"], sys.modules[__name__])
    moved = [(f"{row['op']} {row['dtype']} {row['shape']}", row["percent_of_copy"]) for row in newest["bench"] if "percent_of_copy" in row]
    if moved:
        made["bandwidth.svg"] = bars("Percent of this machine's copy bandwidth", moved)
    scaling = {}
    for row in newest["bench"]:
        if "tflop_per_s" in row and (length := re.search(r"\bs (\d+)", row["shape"])):
            # Batch and length change together, at a fixed number of tokens.
            rest = re.sub(r"\b[bs] \d+ ?", "", row["shape"])
            scaling.setdefault(f"{row['op']} {row['dtype']} {rest}", {})[int(length[1])] = row["tflop_per_s"]
    if scaling:
        lengths = sorted({length for line in scaling.values() for length in line})
        made["scaling.svg"] = lines("Attention over the length of the sequence", "TFLOP/s", [str(length) for length in lengths],
                                    {name: [line.get(length) for length in lengths] for name, line in scaling.items()})
    if len(results) > 1:
        # Of each case in both: how fast it is against the first commit that measured it. Cards are not compared.
        same = [result for result in results if result["gpu"] == newest["gpu"]]
        history = {}
        for at, result in enumerate(same):
            for row in result["bench"]:
                history.setdefault(f"{row['op']} {row['dtype']}", {}).setdefault(row["shape"], {})[at] = speed(row)[0]
        series = {}
        for name, shapes in history.items():
            relative = [[values[at] / values[min(values)] for values in shapes.values() if at in values] for at in range(len(same))]
            series[name] = [sorted(ratios)[len(ratios) // 2] if ratios else None for ratios in relative]
        if len(same) > 1 and series:
            made["history.svg"] = lines("Median speed of each operation's shapes over commits", "the first is 1", [result["revision"][:12] for result in same], series)
    return made


def table(rows):
    """Markdown, one line per case."""
    body = ["| op | dtype | shape | time | speed | of the copy |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        value, unit = speed(row)
        percent = f"{row['percent_of_copy']:.1f} %" if "percent_of_copy" in row else "–"
        body.append(f"| {row['op']} | {row['dtype']} | {row['shape']} | {row['seconds'] * 1e3:.4f} ms | {value:.4g} {unit} | {percent} |")
    return "\n".join(body)


def block(results):
    """The README's words. A run without a GPU, or one in which something failed, is no result."""
    good = [result for result in results if result["gpu"] and result["ok"] and (result["bench"] or "peers" in result)]
    if not good:
        return NONE
    newest = good[-1]
    taken = f"Taken {newest['date']} at {newest['revision']} on {newest['gpu']} (driver, highest clock, memory)"
    if "peers" not in newest:
        return f"{taken}:\n\n{table(newest['bench'])}"
    versions = ", ".join(f"{name} {version}" for name, version in newest["peers"]["versions"].items() if version != "absent")
    return f"{taken}, beside {versions}:\n\n{report_peers.table(newest['peers']['rows'])}"


def replaced(readme, words):
    """`readme` with `words` between the marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no place for the results: the lines \"{BEGIN}\" and \"{END}\" are needed")
    return f"{before}{BEGIN}\n{words}\n{END}{after}"


def page(results, made):
    """One HTML file with everything in it."""
    newest = results[-1]
    cells = lambda tag, words: "".join(f"<{tag}>{html.escape(word.strip())}</{tag}>" for word in words.strip("|").split("|"))
    tables = [table(newest["bench"])] if newest["bench"] else []
    if "peers" in newest:
        tables.insert(0, report_peers.table(newest["peers"]["rows"], every=True))
    shown = []
    for markdown in tables:
        head, _, *body = markdown.split("\n")
        shown += [f"<table><tr>{cells('th', head)}</tr>", *[f"<tr>{cells('td', line)}</tr>" for line in body], "</table>"]
    failed = "" if newest["ok"] else "<p><strong>Something failed in this run.</strong></p>"
    where = newest["gpu"] or "no GPU"
    return "\n".join([
        "<!doctype html>", '<meta charset="utf-8">', "<title>sumexp: results</title>",
        "<style>body{font:15px sans-serif;margin:2em}td,th{padding:2px 12px 2px 0;text-align:left}svg{display:block;max-width:100%;height:auto}</style>",
        "<h1>sumexp: results</h1>", f"<p>{html.escape(newest['date'])}, commit {html.escape(newest['revision'])}, {html.escape(where)}</p>",
        failed, *made.values(), *shown, ""])


def png(folder, names):
    """Writes the PNG of each SVG with whatever is installed for that, and returns with what; None if nothing is."""
    try:
        import cairosvg

        draw = lambda svg, png: cairosvg.svg2png(url=str(svg), write_to=str(png), scale=2)
        by = "cairosvg"
    except (ImportError, OSError):  # It raises OSError where its own library, cairo, is missing.
        by = next((program for program in ("resvg", "rsvg-convert") if shutil.which(program)), None)
        if by is None:
            return None
        words = {"resvg": lambda svg, png: ["--zoom", "2", svg, png], "rsvg-convert": lambda svg, png: ["--zoom", "2", "-o", png, svg]}[by]
        draw = lambda svg, png: subprocess.run([by, *words(svg, png)], check=True)
    for name in names:
        draw(folder / name, (folder / name).with_suffix(".png"))
    return by


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", metavar="RESULTS")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--readme", type=pathlib.Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args(arguments)
    try:
        results = sorted((load(path) for path in options.results), key=lambda result: result["date"])
        if options.out and results:
            made = pictures(results)
            options.out.mkdir(parents=True, exist_ok=True)
            for name, svg in made.items():
                (options.out / name).write_text(svg)
            (options.out / "index.html").write_text(page(results, made))
            by = png(options.out, made)
            formats = f"SVG, and PNG by {by}" if by else "SVG only: neither cairosvg nor resvg nor rsvg-convert is installed, so there is no PNG"
            print(f"{options.out / 'index.html'}, {len(made)} pictures as {formats}")
        elif options.out:
            print("no results: no page")
        if options.readme:
            old = options.readme.read_text()
            new = replaced(old, block(results))
            if options.check and new != old:
                raise ValueError(f"{options.readme}: the table of results is not that of the files: make report")
            if not options.check:
                options.readme.write_text(new)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
