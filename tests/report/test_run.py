"""The `run` of the bundle for GPU machines, with programs that pretend. `python3 test_run.py`."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).parents[2]
PASSES = "#!/bin/sh\nfor name in a b c; do echo \"test $name ... ok\"; done\necho 'test result: ok. 3 passed; 0 failed; 0 ignored'\n"
FAILS = "#!/bin/sh\necho 'test a ... ok'\necho 'test b::c - should panic ... FAILED'\necho 'test result: FAILED. 1 passed; 1 failed; 0 ignored'\nexit 101\n"
BENCH = """#!/bin/sh
[ $# = 3 ] && [ "$3" = f16 ] || exit 1
echo '{"device":"d","op":"softmax","dtype":"f16","shape":"[1, 2] dim <1>","bytes":8,"gb_per_s":7.5,"copy_gb_per_s":10,"percent_of_copy":75,"seconds":1e-3}' >>"$SUMEXP_BENCH_JSON"
"""
PEERS = """#!/bin/sh
[ "$1 $2 $3 $5" = "-m peers --seconds --json" ] && [ -e "$SUMEXP_LIBRARY" ] || exit 1
echo '{"rows":[],"arguments":"'"$4 $7"'"}' >"$6"
echo 'softmax: 1 us'
"""


class Run(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.bundle = pathlib.Path(folder.name)
        shutil.copy(ROOT / "tools/bundle_run.sh", self.bundle / "run")
        (self.bundle / "revision.txt").write_text("abc\n")
        self.program("tests/softmax", PASSES)
        self.program("conformance/conformance", PASSES)
        self.program("benches/softmax", BENCH)

    def program(self, path, script):
        path = self.bundle / path
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    def run_it(self, *words, **variables):
        """The exit code, what was printed, and results.json if there is one."""
        environment = {**os.environ, "PATH": f"{self.bundle}:/usr/bin:/bin", **variables}
        done = subprocess.run(["sh", self.bundle / "run", *words], env=environment, capture_output=True, text=True)
        results = self.bundle / "results.json"
        return done.returncode, done.stdout + done.stderr, json.loads(results.read_text()) if results.exists() else None

    def test_sections_are_chosen_and_told_apart(self):
        code, printed, results = self.run_it("tests", "bench", "--", "f16")
        self.assertEqual((code, results["ok"]), (0, True))
        self.assertEqual([row["passed"] for row in results["tests"]], [3])
        self.assertEqual([row["percent_of_copy"] for row in results["bench"]], [75])
        self.assertEqual((results["conformance"], results["sanitizer"]), ([], []))
        self.assertIn("softmax: passed, 3 tests passed, 0 failed, exit 0", printed)
        self.assertTrue(printed.endswith("softmax f16 [1, 2] dim <1>: 1e-3 s, 7.5 gb_per_s\nresults.json written, everything passed\n"), printed)
        self.assertEqual(self.run_it("conformance")[2]["tests"], [])

    def test_a_failure_is_one(self):
        self.program("tests/attention", FAILS)
        code, printed, results = self.run_it("tests")
        self.assertEqual((code, results["ok"]), (1, False))
        # It comes last, and the others run.
        rows = [(row["name"], row["state"], row["passed"], row["failed"], row["exit"]) for row in results["tests"]]
        self.assertEqual(rows, [("softmax", "passed", 3, 0, 0), ("attention", "failed", 1, 1, 101)])
        self.assertIn("something FAILED", printed)

    def test_what_runs_out_of_time_failed(self):
        self.program("tests/mask", PASSES)
        self.program("tests/softmax", "#!/bin/sh\necho 'test a ... ok'\nexec sleep 60\n")
        self.program("tests/tensor", PASSES)
        code, printed, results = self.run_it("tests", SUMEXP_SECTION_SECONDS="2")
        self.assertEqual((code, results["ok"]), (1, False))
        rows = [(row["name"], row["state"], row["passed"], row["exit"]) for row in results["tests"]]
        self.assertEqual(rows, [("mask", "passed", 3, 0), ("softmax", "stopped", 1, 124), ("tensor", "not run", 0, 124)])
        self.assertIn("softmax: stopped, 1 tests passed", printed)
        self.assertIn("tensor is not run: no time is left", printed)

    def test_the_sanitizer_runs_each_test_or_is_missed(self):
        code, printed, results = self.run_it("sanitizer")
        self.assertEqual((code, results["sanitizer"][0]["exit"]), (1, 127))
        self.assertIn("compute-sanitizer is not on PATH", printed)
        # It finds an error that the program itself does not see.
        self.program("compute-sanitizer", '#!/bin/sh\n[ "$4" = 99 ] && "$5" && exit 99\n')
        code, _, results = self.run_it("sanitizer")
        self.assertEqual((code, results["sanitizer"][0]["exit"], results["sanitizer"][0]["passed"]), (1, 99, 3))

    def test_peers_are_one_object(self):
        self.program("capi/libsumexp.so", "")
        self.program("python", PEERS)
        python = {"SUMEXP_PYTHON": str(self.bundle / "python"), "SUMEXP_SECTION_SECONDS": "100"}
        code, printed, results = self.run_it("peers", "--", "f16", **python)
        self.assertEqual((code, results["ok"], results["peers"]), (0, True, {"rows": [], "arguments": "90 f16"}))
        self.assertIn("softmax: 1 us", printed)
        self.assertEqual(results["bench"], [])
        # Without what it needs it fails, and nothing of the run before is left.
        (self.bundle / "capi/libsumexp.so").unlink()
        code, _, results = self.run_it("peers", **python)
        self.assertEqual((code, results["ok"]), (1, False))
        self.assertNotIn("peers", results)

    def test_a_section_that_is_none(self):
        code, printed, results = self.run_it("test")
        self.assertEqual((code, results), (2, None))
        self.assertIn('"test" is not one of', printed)


if __name__ == "__main__":
    unittest.main()
