"""The sentences of an object stand beside its pictures, safely and in a fixed order."""

from pathlib import Path

from egoray.core.storage import Folder
from egoray.core.workfolder import write_expressions
from egoray.report.expressions import expression_rows
from egoray.report.html import write_report
from egoray.schema import Expression
from support.annotated import write_annotated


def say(number: int, kind: str, text: str, review: str = "") -> Expression:
    ids = {"expression_id": str(number), "video_id": "clip-0", "object_id": "1"}
    return Expression(**ids, kind=kind, text=text, source="direct", model="gpt-4o", review=review)


def test_sentences_are_shown_short_first_with_their_doubts(tmp_path: Path) -> None:
    work = Folder(write_annotated(tmp_path / "run", clips=1))
    told = [say(1, "relation", "the cup by the sink", "may mean several objects"), say(2, "short", "<b>the red cup</b>")]
    write_expressions(work / "expressions", "unit", told)
    page = Path(write_report(work, str(tmp_path / "report.html"))).read_text()
    assert "&lt;b&gt;the red cup&lt;/b&gt;" in page
    assert "<b>the red cup" not in page
    assert page.index("the red cup") < page.index("the cup by the sink")
    assert "To review: may mean several objects" in page
    assert page.count('class="expressions"') == 1


def test_without_expressions_there_is_no_list(tmp_path: Path) -> None:
    work = Folder(write_annotated(tmp_path / "run", clips=1))
    assert expression_rows(work) == {}
    assert 'class="expressions"' not in Path(write_report(work, str(tmp_path / "report.html"))).read_text()
