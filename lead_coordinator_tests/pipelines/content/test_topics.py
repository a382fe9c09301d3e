"""Topic files: good rows are taken, bad ones reported with line, field and reason."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.content import topics
from lead_coordinator.pipelines.content.topics import BadRow, read_topics

EXAMPLES = Path(__file__).parents[3] / "examples" / "topics.csv"


def write(tmp_path: Path, data: bytes | str, name: str = "topics.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_the_examples_are_all_good() -> None:
    good, bad = read_topics(EXAMPLES)
    assert bad == []
    assert len(good) >= 30
    assert len({row.idempotency_key for row in good}) == len(good)
    assert all(row.brief.audience and row.brief.notes and row.brief.value_usd for row in good)
    assert any(row.brief.title is None for row in good), "some have only a keyword"


def test_good_rows_are_taken_and_bad_rows_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        b"title,keyword,value_usd,deadline,priority,audiance\r\n"
        b"A,a,12.50,2030-01-01,70,x\r\n"
        b"\r\n"
        b",,,,,\r\n"
        b",,5,,,\r\n"
        b"B,,-1,,,\r\n"
        b"C\xe9,,,,,\r\n"
        b"D,,,soon,,\r\n"
        b"E,,,,101,\r\n"
        b"a,A,,,,\r\n"
        b'"two\nlines",,,,,\r\n'
        b"F,f,1,2,3,4,5\r\n"
        b'"He said ""go""",,,,,\r\n',
    )
    good, bad = read_topics(path)
    assert [(row.line, row.brief.subject, row.priority) for row in good] == [
        (2, "A", 70),
        (14, 'He said "go"', None),
    ]
    assert [(row.line, row.field) for row in bad] == [
        (1, "'audiance'"),
        (5, None),
        (6, "value_usd"),
        (7, "title"),
        (8, "deadline"),
        (9, "priority"),
        (10, None),
        (11, "title"),
        (13, None),
    ]
    reasons = {row.line: row.reason for row in bad}
    assert "unknown column" in reasons[1]
    assert reasons[5] == "a title or a keyword is required"
    assert "0xe9 isn't UTF-8" in reasons[7]
    assert "line 2" in reasons[10], "a brief that stands twice names the first"
    assert reasons[13] == "7 cells where the first row names 6 columns"
    assert str(bad[2]).startswith("line 6, value_usd: '-1' given, 0 to 1000000")


def test_a_row_as_a_task(tmp_path: Path) -> None:
    path = write(tmp_path, "keyword,value_usd,deadline,priority\nrail trip,88,2030-01-01,\nbikes,,,5\n")
    first, second = (row.task() for row in read_topics(path)[0])
    assert first | {"idempotency_key": ""} == {
        "task_type": "content_generation",
        "payload": {"keyword": "rail trip", "site": "main", "language": "en"},
        "idempotency_key": "",
        "value_usd": "88",
        "deadline": "2030-01-01T23:59:59+00:00",
    }
    assert second["priority"] == 5
    assert "deadline" not in second
    assert "value_usd" not in second


@pytest.mark.parametrize(
    "data",
    [
        "\ufefftitle;keyword\nA;a\n".encode(),
        "title\tkeyword\r\nA\ta\r\n".encode("utf-16"),
        b"Title , Keyword\rA,a\r",
        b'"title","keyword"\n"A","a"',
    ],
    ids=[
        "byte-order mark and semicolons",
        "UTF-16 with tabs",
        "old Mac line ends",
        "all quoted, no last line end",
    ],
)
def test_what_spreadsheets_write(tmp_path: Path, data: bytes) -> None:
    good, bad = read_topics(write(tmp_path, data))
    assert [(row.brief.title, row.brief.keyword) for row in good] == [("A", "a")]
    assert bad == []


def test_a_huge_field_costs_only_its_row(tmp_path: Path) -> None:
    huge = "q" * 300_000
    good, bad = read_topics(write(tmp_path, f'title\nA\n"{huge}"\n{huge}\nB\n'))
    assert [row.brief.title for row in good] == ["A", "B"]
    assert [row.line for row in bad] == [3, 4]
    assert all("field larger" in row.reason or "300000 characters" in row.reason for row in bad)


def test_an_open_quotation_mark_says_what_it_swallowed(tmp_path: Path) -> None:
    good, bad = read_topics(write(tmp_path, 'title\nA\n"open\nB\nC\n'))
    assert [row.brief.title for row in good] == ["A"]
    assert bad == [BadRow(3, None, "a quotation mark opened here is never closed; lines 3 to 5 weren't read")]


def test_json_lines(tmp_path: Path) -> None:
    lines = [
        '{"title": "A", "value_usd": 0.1, "priority": 3}',
        "",
        "{broken",
        "[1, 2]",
        '{"title": "B", "theme": "b"}',
        '{"title": "C", "value_usd": NaN}',
        '{"title": "D", "value_usd": ' + "9" * 5000 + "}",
        "[" * 100_000,
        '{"title": "E\u2028still E"}',
        '{"title": "\\ud800"}',
    ]
    good, bad = read_topics(write(tmp_path, "\n".join(lines), "t.jsonl"))
    assert [(row.line, row.brief.title, row.priority) for row in good] == [
        (1, "A", 3),
        (9, "E still E", None),
    ]
    assert good[0].brief.value_usd == Decimal("0.1")
    assert [row.line for row in bad] == [3, 4, 5, 6, 7, 8, 10]
    assert bad[2].field == "'theme'"
    assert "known fields: title" in bad[2].reason


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("topics.xlsx", b"PK", "must end in"),
        ("topics.csv", b"", "a title or keyword column is required"),
        ("topics.csv", b"name,notes\nA,b\n", "a title or keyword column is required"),
        ("topics.csv", b"title,title\nA,b\n", "twice"),
    ],
)
def test_what_is_no_topics_file(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        read_topics(write(tmp_path, data, name))


def test_missing_folder_and_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="No such file"):
        read_topics(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InvalidInput, match="directory"):
        read_topics(tmp_path / "folder.csv")
    monkeypatch.setattr(topics, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidInput, match="split it"):
        read_topics(write(tmp_path, "title\nlonger than ten\n"))


PRINTABLE = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cf", "Zl", "Zp", "Co"]), min_size=1, max_size=40
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(titles=st.lists(PRINTABLE.filter(str.strip), min_size=1, max_size=8), as_csv=st.booleans())
def test_what_is_written_is_read_back(tmp_path: Path, titles: list[str], as_csv: bool) -> None:
    if as_csv:
        buffer = io.StringIO()
        csv.writer(buffer).writerows([["title", "notes"], *([title, 'n,o;t\te\n"s"'] for title in titles)])
        path = write(tmp_path, buffer.getvalue())
    else:
        rows = [
            json.dumps({"title": title, "notes": 'n,o;t\te\n"s"'}, ensure_ascii=False) for title in titles
        ]
        path = write(tmp_path, "\n".join(rows), "topics.jsonl")
    good, bad = read_topics(path)
    assert len(good) + len(bad) == len(titles), "each row is taken or reported"
    assert all("same article" in row.reason for row in bad)
    assert all(row.brief.notes == 'n,o;t\te\n"s"' for row in good)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.binary(max_size=400), suffix=st.sampled_from([".csv", ".jsonl"]), header=st.booleans())
def test_no_file_makes_it_fall_over(tmp_path: Path, data: bytes, suffix: str, header: bool) -> None:
    path = write(tmp_path, (b"title,notes\n" if header else b"") + data, f"t{suffix}")
    try:
        good, bad = read_topics(path)
    except InvalidInput:
        return
    assert all(row.brief.subject for row in good)
    assert all(row.reason and row.line >= 1 for row in bad)
