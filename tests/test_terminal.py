"""What people read on the terminal."""

from __future__ import annotations

import pytest

from egoray import terminal


def test_an_evaluation_is_two_tables_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    metrics = {"T_recall": 0.5, "IoU_gold_pred": 0.12345, "F": None}
    slices = {
        "area": {"under 1 %": {"num": 3, "IoU_gold_pred": 0.25, "T_recall": None}},
        "kind": {"function": {"num": 1, "IoU_gold_pred": 0.0}},
    }
    terminal.evaluation({"split": "long", "num_expressions": 1234, "metrics": metrics, "slices": slices})
    out, err = capsys.readouterr()
    assert out == ""
    assert "long: 1,234 expressions" in err
    cells = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in err.splitlines() if line.startswith("│")]
    assert cells == [
        *(["T_recall", "50.0"], ["IoU_gold_pred", "12.3"]),
        *(["area", "under 1 %", "3", "25.0", "–"], ["kind", "function", "1", "0.0", "–"]),
    ]


def test_a_failed_evaluation_has_no_slices(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.evaluation({"split": "short", "num_expressions": 0, "metrics": {}})
    assert "slice" not in capsys.readouterr().err
