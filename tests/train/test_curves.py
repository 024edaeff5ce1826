"""A run's curve as a picture: to scale, well-formed, and empty where there is nothing."""

from xml.etree import ElementTree

from egoray.train.curves import draw_curves, read_curve

SVG = "{http://www.w3.org/2000/svg}"


def written(tmp_path, rows):
    path = tmp_path / "curve.csv"
    path.write_text("elapsed_s,step,figure,value\n" + "".join(f"{s},1,{name},{value}\n" for s, name, value in rows))
    return path


def test_a_figure_is_read_in_minutes(tmp_path):
    path = written(tmp_path, [(60, "ap50", 0.5), (90, "loss", 3), (120, "ap50", 0.75)])
    assert read_curve(path, "ap50") == [(1.0, 0.5), (2.0, 0.75)]
    assert read_curve(path, "none") == []


def test_lines_are_to_scale(tmp_path):
    path = written(tmp_path, [(0, "a & b", 0.0), (60, "a & b", 1.0), (30, "c", 0.5)])
    root = ElementTree.fromstring(draw_curves({name: read_curve(path, name) for name in ("a & b", "c")}, "<title>"))
    first, second = ([tuple(map(float, p.split(","))) for p in line.get("points").split()] for line in root.iter(f"{SVG}polyline"))
    assert first[0][0] < second[0][0] < first[1][0]
    assert second[0] == ((first[0][0] + first[1][0]) / 2, (first[0][1] + first[1][1]) / 2)
    assert first[1][1] < first[0][1]


def test_nothing_recorded_draws_the_axes_alone(tmp_path):
    root = ElementTree.fromstring(draw_curves({"ap50": []}, "none"))
    assert next(root.iter(f"{SVG}polyline")).get("points") == ""
