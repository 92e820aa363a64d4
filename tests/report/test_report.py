"""The report of made-up results: what stands in its pictures, its page and the README. `python3 test_report.py`."""

import contextlib
import copy
import io
import json
import os
import pathlib
import sys
import tempfile
import unittest
from unittest import mock
import xml.etree.ElementTree as xml

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "tools"))
import report

SVG = "{http://www.w3.org/2000/svg}"


class Report(unittest.TestCase):
    def setUp(self):
        self.sample = report.load(HERE / "sample.json")
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_main(self, *arguments):
        """The exit code, and what went to stderr."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            return report.main([str(argument) for argument in arguments]), errors.getvalue()

    def test_bars_are_as_long_as_their_numbers(self):
        bars = xml.fromstring(report.pictures([self.sample])["bandwidth.svg"])
        widths = [float(rect.get("width")) for rect in bars.iter(SVG + "rect")][1:]
        line = next(bars.iter(SVG + "line"))
        self.assertEqual(len(widths), 1)
        # The line stands at 100 %, the bar ends at 75 %, and it begins where the line's place is counted from.
        left = float([rect.get("x") for rect in bars.iter(SVG + "rect")][1])
        self.assertAlmostEqual(widths[0] / (float(line.get("x1")) - left), 0.75)

    def test_one_line_per_kind_of_attention(self):
        lines = xml.fromstring(report.pictures([self.sample])["scaling.svg"])
        points = [line.get("points").split() for line in lines.iter(SVG + "polyline")]
        self.assertEqual([len(line) for line in points], [2])
        heights = [305 - float(point.split(",")[1]) for point in points[0]]
        self.assertAlmostEqual(heights[0] / heights[1], 0.5)

    def test_bars_beside_peers(self):
        peers = report.load(HERE / "peers.json")
        made = report.pictures([peers])
        self.assertEqual(set(made), {"peers.svg", "roofline.svg"})
        bars = xml.fromstring(made["peers.svg"])
        # sumexp at 90 % and PyTorch at 45 %, the wrong and the absent not at all.
        drawn = [rect for rect in bars.iter(SVG + "rect") if rect.get("x")]
        self.assertEqual(len(drawn), sum(row["state"] == "ok" and row["headline"] for row in peers["peers"]["rows"]))
        widths = [float(rect.get("width")) for rect in drawn[:2]]
        self.assertAlmostEqual(widths[0] / widths[1], 2)
        self.assertNotEqual(drawn[0].get("fill"), drawn[1].get("fill"))
        words = "".join(bars.itertext())
        self.assertIn("90.0 % of copy, 90 GB/s", words)
        self.assertNotIn("liger", words)

    def test_points_below_the_roof(self):
        peers = report.load(HERE / "peers.json")
        roofline = xml.fromstring(report.pictures([peers])["roofline.svg"])
        points = [(float(circle.get("cx")), float(circle.get("cy"))) for circle in roofline.iter(SVG + "circle")]
        ours = [row for row in peers["peers"]["rows"] if row["who"] == "sumexp"]
        self.assertEqual(len(points), len(ours))
        roof = next(line for line in roofline.iter(SVG + "polyline") if line.get("class") == "roof")
        (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, pair.split(","))) for pair in roof.get("points").split()]
        self.assertEqual(y1, y2)
        for (x, y), row in zip(points, ours):
            height = y1 if x >= x1 else y0 + (x - x0) * (y1 - y0) / (x1 - x0)
            # Reading has a roof of its own, a little above that of copying.
            self.assertTrue(y > height if row["ceiling"] != "read" else y > height - 15, row)
        self.assertEqual(max(points, key=lambda point: point[0])[0], max(x for x, _ in points))

    def test_the_readme_compares_with_peers(self):
        block = report.block([report.load(HERE / "peers.json")])
        self.assertIn("| softmax | bfloat16 | [32768, 1024] dim 1 | 1.4913 ms | 90 GB/s | 90.0 % of copy | torch | 2.00 |", block)
        self.assertIn("beside torch 0", block)
        self.assertEqual(report.block([{**report.load(HERE / "peers.json"), "gpu": ""}]), report.NONE)

    def test_half_a_comparison_is_an_error(self):
        peers = json.loads((HERE / "peers.json").read_text())
        del peers["rows"][0]["percent_of_ceiling"]
        (self.folder / "half.json").write_text(json.dumps(peers))
        code, error = self.run_main("--out", self.folder / "page", self.folder / "half.json")
        self.assertEqual(code, 1)
        self.assertIn("row 0 lacks percent_of_ceiling", error)

    def test_png_by_what_is_installed(self):
        for program in ("resvg", "rsvg-convert"):
            made = self.folder / program
            made.mkdir()
            # The last word or the one behind -o is where the PNG goes.
            script = made / program
            script.write_text('#!/bin/sh\n[ "$3" = -o ] && echo "$5" >"$4" || echo "$3" >"$4"\n')
            script.chmod(0o755)
            with mock.patch.dict(os.environ, {"PATH": f"{made}:/usr/bin:/bin"}), mock.patch.dict(sys.modules, {"cairosvg": None}):
                with mock.patch.object(report.shutil, "which", lambda name: name if name == program else None):
                    self.assertEqual(self.run_main("--out", made, HERE / "peers.json"), (0, ""))
            self.assertEqual((made / "roofline.png").read_text().strip(), str(made / "roofline.svg"))
        with mock.patch.dict(sys.modules, {"cairosvg": None}), mock.patch.object(report.shutil, "which", lambda name: None):
            self.assertIsNone(report.png(self.folder, ["roofline.svg"]))

    def test_history_is_of_one_card(self):
        later = copy.deepcopy(self.sample)
        later.update(date="2000-01-03T00:00:00Z", revision="later")
        self.assertIn("history.svg", report.pictures([self.sample, later]))
        later["gpu"] = "another card"
        self.assertNotIn("history.svg", report.pictures([self.sample, later]))

    def test_the_page_needs_no_other_file(self):
        self.sample["bench"][0]["shape"] = "<script>"
        results = self.folder / "results.json"
        results.write_text(json.dumps(self.sample))
        self.assertEqual(self.run_main("--out", self.folder / "page", results), (0, ""))
        page = (self.folder / "page/index.html").read_text()
        for needed in ["<svg", "75.0 %", "4 TFLOP/s", "a card that does not exist", "&lt;script&gt;"]:
            self.assertIn(needed, page)
        for never in ["<script", "src=", "href="]:
            self.assertNotIn(never, page)

    def test_only_a_whole_run_on_a_gpu_reaches_the_readme(self):
        self.assertIn("| softmax | f16 | [16, 32] dim <1> | 0.0000 ms | 75 GB/s | 75.0 % |", report.block([self.sample]))
        for change in [{"gpu": ""}, {"ok": False}, {"bench": []}]:
            self.assertEqual(report.block([{**self.sample, **change}]), report.NONE)
        self.assertEqual(report.block([]), report.NONE)

    def test_a_table_out_of_date_is_noticed(self):
        readme = self.folder / "README.md"
        readme.write_text(f"before\n{report.BEGIN}\n{report.NONE}\n{report.END}\nafter\n")
        sample = HERE / "sample.json"
        self.assertEqual(self.run_main("--readme", readme, "--check"), (0, ""))
        code, error = self.run_main("--readme", readme, "--check", sample)
        self.assertEqual(code, 1)
        self.assertIn("make report", error)
        self.assertEqual(self.run_main("--readme", readme, sample), (0, ""))
        self.assertEqual(self.run_main("--readme", readme, "--check", sample), (0, ""))
        self.assertTrue(readme.read_text().startswith("before\n") and readme.read_text().endswith("\nafter\n"))

    def test_half_a_file_is_an_error(self):
        for field in ["revision", "ok", "bench"]:
            half = {name: value for name, value in self.sample.items() if name != field}
            (self.folder / "half.json").write_text(json.dumps(half))
            code, error = self.run_main("--out", self.folder / "page", self.folder / "half.json")
            self.assertEqual(code, 1)
            self.assertIn(f'"{field}" is missing', error)
        del self.sample["bench"][1]["tflop_per_s"]
        (self.folder / "half.json").write_text(json.dumps(self.sample))
        self.assertIn("one of gb_per_s and tflop_per_s", self.run_main(self.folder / "half.json")[1])
        self.assertFalse((self.folder / "page").exists())


if __name__ == "__main__":
    unittest.main()
