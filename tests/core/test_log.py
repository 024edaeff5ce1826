"""Lines that a machine reads, whatever is in them."""

import io
import json
import logging

from egoray.core.log import UnitLog


def test_an_event_is_one_line_of_json(capsys):
    stream = io.StringIO()
    log = UnitLog("annotate", stream)
    log("unit started", unit="u-1", attempt=1)
    log("unit failed", level=logging.ERROR, unit="u-1", message='a "quoted"\nline – é', error=ValueError("x"))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["stage"], first["unit"], first["attempt"]) == (
        "unit started",
        "info",
        "annotate",
        "u-1",
        1,
    )
    assert (second["level"], second["message"], second["error"]) == ("error", 'a "quoted"\nline – é', "x")
    assert first["at"].endswith("Z")
    assert capsys.readouterr().err == "", "nobody else's handlers get it"


def test_two_logs_do_not_repeat_each_other():
    streams = [io.StringIO(), io.StringIO()]
    for stream in streams:
        UnitLog("annotate", stream)("unit done")
    assert [len(stream.getvalue().splitlines()) for stream in streams] == [1, 1]
