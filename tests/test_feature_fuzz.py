"""A short run of the fuzzer over the features' kinds of input; `make fuzz` is the long one."""

import fuzz
import fuzz_features  # registers its kinds


def test_damaged_inputs_are_one_line_errors_and_write_nothing_elsewhere(monkeypatch):
    monkeypatch.setattr(fuzz, "KINDS", {name: fuzz.KINDS[name] for name in fuzz_features.NAMES})
    counts, failures = fuzz.run(300, seed=1)
    assert failures == []
    assert sum(counts.values()) == 300


def test_the_fuzzer_reports_a_traceback(monkeypatch):
    def broken(folder, out):
        raise KeyError("x")

    monkeypatch.setattr(fuzz, "KINDS", {"broken": fuzz.Kind(fuzz_features.make_npz, broken)})
    counts, failures = fuzz.run(1)
    assert counts == {("broken", "WRONG"): 1}
    assert "KeyError" in failures[0]
