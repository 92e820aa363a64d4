"""The report of made-up results: what stands in its pictures, its page and the README. `python3 test_report.py`."""

import contextlib
import copy
import io
import json
import pathlib
import sys
import tempfile
import unittest
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
