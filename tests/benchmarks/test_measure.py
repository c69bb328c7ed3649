from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the benchmarks compare with Detectron2: no torch")

_FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "measure.py"
_spec = importlib.util.spec_from_file_location("measure", _FILE)
measure = importlib.util.module_from_spec(_spec)
sys.modules["measure"] = measure  # dataclasses look their module up there
_spec.loader.exec_module(measure)


@pytest.fixture
def settings(tmp_path):
    return measure.Settings("cpu", quick=False, folder=tmp_path)


@pytest.mark.parametrize(
    "ours, alternative, reach, at_least, value, met",
    [
        (1.0, 8.0, 0.125, False, 0.125, True),
        (1.1, 8.0, 0.125, False, 0.1375, False),
        (9.0, 10.0, 0.9, True, 0.9, True),
        (8.0, 10.0, 0.9, True, 0.8, False),
        (15.0, None, 16.0, False, 15.0, True),
        (17.0, None, 16.0, False, 17.0, False),
        (3.0, 4.0, None, False, 0.75, None),
    ],
)
def test_a_rows_reach(ours, alternative, reach, at_least, value, met):
    row = measure.Row("", "", ours, alternative, "ms", reach, at_least)
    assert row.value == pytest.approx(value)
    assert row.met is met


def test_growth_is_that_of_the_last_step():
    series = [(1, 50.0), (10, 100.0), (100, 500.0)]
    row = measure.growth_row("", "people", series, "ms", measure.LINEAR)
    assert (row.ours, row.alternative, row.value) == (5.0, 10.0, 0.5)
    assert row.compared == "people 1, 10, 100: 50, 100, 500 ms"
    assert row.met
    assert not measure.growth_row("", "people", series, "ms", measure.BOUNDED).met


def test_functions_run_in_turns(settings):
    order = []
    measure.in_turns([lambda: order.append("a"), lambda: order.append("b")], settings, 0.1)
    assert len(order) >= 8
    assert order == ["a", "b"] * (len(order) // 2)


def test_activations_are_what_is_saved_once_and_no_parameters():
    linear = torch.nn.Linear(1024, 1024)
    x = torch.zeros(256, 1024, requires_grad=True)
    # Kept: the input, 1 MiB, and tanh's output, 1 MiB, which the product needs too.
    found = measure.activations(lambda: linear(x).tanh().square(), linear)
    assert found == pytest.approx(2, abs=0.01)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory: Linux only")
@pytest.mark.parametrize("library", [np, torch])
def test_peak_memory_sees_what_is_given_back(settings, library):
    def function():
        first = library.ones(2**22)  # 32 MiB of float64, 16 of float32
        return first + 1

    itemsize = function().itemsize
    expected = 2 * 2**22 * itemsize / measure.MIB
    assert measure.peak_memory(function, settings) == pytest.approx(expected, rel=0.1)
