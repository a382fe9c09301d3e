"""Exports as people have them are read; hostile ones end in a clear error or a safe result."""

from __future__ import annotations

import tracemalloc
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lead_coordinator.database.revenue import MetricRow
from lead_coordinator.errors import InvalidInput
from lead_coordinator.pipelines.revenue import numbers
from lead_coordinator.pipelines.revenue.columns import field_of
from lead_coordinator.pipelines.revenue.exports import parse_metrics, read_metrics
from lead_coordinator.pipelines.revenue.numbers import NotANumber
from lead_coordinator.pipelines.revenue.table import decoded

HOSTILE = Path(__file__).parents[2] / "hostile" / "metrics"
DAY = date(2026, 11, 1)

# What each hostile file ends in: the error, or the rows that are safe to take.
ENDS: dict[str, str | list[MetricRow]] = {
    "1e308.csv": r"row 2, 'Total revenue': '1e308' isn't a number",
    "ambiguous-date.csv": r"row 2, 'Date': '03/04/2026' may be two days; write it as 2026-11-24",
    "ancient-date.csv": r"row 2, 'Date': '1899-12-30' is out of range; 2000-01-01 to 2026-11-24",
    "arabic-digits.csv": r"row 2, 'Views': '١٢٣' isn't a whole number",
    "bad-brackets.csv": r"row 2, 'Page': 'https://\[::1/a' is no address",
    "bad-comment-date.csv": r"row 1: '20261399' is no date of the calendar",
    "bidi-override.csv": r"row 2, 'Clicks': '\\u202e1' isn't a whole number",
    "control-in-path.csv": r"row 2, 'Page path': '/a\\x07b' holds a control character",
    "duplicate-column.csv": r"row 1: the columns 'Page' and 'URL' both hold the page; keep one",
    "duplicate-row.csv": r"row 3: '/a' on 2026-11-01 stands there twice, first in row 2",
    "empty.csv": r"the file is empty",
    "extra-cells.csv": r"row 2: 9 cells where the first row names 6 columns",
    "formula-in-number.csv": r"row 2, 'Clicks': '=1\+1' isn't a whole number",
    "formula.csv": r"row 2, 'Page': .*calc.* is neither an address",
    "future-date.csv": r"row 2, 'Date': '2199-01-01' is out of range",
    "html-error-page.csv": r"row 1: no column of pages",
    "huge-number.csv": r"row 2, 'Views': '9{79}…' is longer than 40 characters",
    "infinity.csv": r"row 2, 'Position': 'Infinity' isn't a number",
    "latin-1.csv": r"row 2: byte 0xfc isn't UTF-8; save the file as UTF-8",
    "leap-day.csv": r"row 2, 'Date': '2026-02-29' is no date of the calendar",
    "long-digits.csv": r"row 2, 'Views': '9{30}' is out of range; 0 to 1,000,000,000,000 are allowed",
    "long-path.csv": r"row 2, 'Page path': .* has 901 characters; 500 are allowed",
    "many-columns.csv": r"row 1: 20,003 columns, 200 are allowed",
    "markup-in-path.csv": [MetricRow("/a<script>alert(1)</script>|b", DAY, views=5)],
    "more-clicks-than-impressions.csv": r"row 2, 'Clicks': 11 is more than the impressions, 10",
    "nan.csv": r"row 2, 'Clicks': 'NaN' isn't a whole number",
    "negative.csv": r"row 3, 'Clicks': '-3' is out of range; 0 to 1,000,000,000,000 are allowed",
    "no-date-column.csv": r"row 1: no column of dates; export pages by date",
    "no-page-column.csv": r"row 1: no column of pages .* among 'Date, Clicks, Impressions'",
    "nul.csv": r"row 2: byte 0x00; this is no text",
    "only-comments.csv": r"the file is empty",
    "only-header.csv": r"holds no rows with a page and figures",
    "only-totals.csv": r"holds no rows with a page and figures",
    "open-quote.csv": r"row 3: a quotation mark is opened and never closed",
    "other-date.csv": r"row 2, 'Date': '32.13.2026' is no date of the calendar",
    "period-only.csv": r"row 3: no column of dates \(it covers 2026-10-01 to 2026-10-31\)",
    "position-zero.csv": r"row 2, 'Position': 0.4 is out of range; 1 to 10,000 are allowed",
    "quote-inside.csv": r"row 2: ',' expected after '\"'",
    "ragged.csv": r"row 2: 1 cells where the first row names 6 columns",
    "script-in-page.csv": r"row 2, 'Page': 'javascript:alert\(1\)' is neither an address",
    "second-table.csv": r"row 6: a second table begins here",
    "two-decimal-marks.csv": r"the columns 'Key events' and 'Total revenue' use different decimal marks",
    "two-hosts.csv": r"row 3, 'Page': a page of 'evil.example' where row 2 is of 'e.org'",
    "utf-16-cut.csv": r"byte \d+: the file begins as UTF-16 and isn't",
    "utf-16-without-mark.csv": r"row 1: byte 0x00; this is no text, or UTF-16 without its mark",
    "zip.csv": r"the file is a ZIP archive",
}


def test_every_hostile_file_is_told_of() -> None:
    assert {path.name for path in HOSTILE.iterdir()} == ENDS.keys()


@pytest.mark.parametrize("name", sorted(ENDS))
def test_a_hostile_file_ends_in_a_clear_error_or_a_safe_result(name: str) -> None:
    ends = ENDS[name]
    if isinstance(ends, str):
        with pytest.raises(InvalidInput, match=ends) as error:
            read_metrics(HOSTILE / name, today=date(2026, 11, 24))
        assert len(str(error.value)) < 500
        assert str(error.value).isprintable(), "nothing of the file may steer a terminal"
    else:
        assert list(read_metrics(HOSTILE / name, today=date(2026, 11, 24)).rows) == ends


@pytest.mark.parametrize(
    "text",
    [
        "Date,Page,Clicks" + ",x" * 1_000_000 + "\n",
        'Date,Page,Clicks\n2026-11-01,"' + "/a\n" * 2_000_000,
        "Date,Page,Clicks\n" + "2026-11-01,/a,1" * 700_000 + "\n",
        "#" * 5_000_000,
    ],
    ids=["a million columns", "a quote that is never closed", "one endless row", "one endless comment"],
)
def test_however_large_a_file_is_memory_stays_within_a_few_times_its_size(tmp_path: Path, text: str) -> None:
    file = tmp_path / "large.csv"
    file.write_text(text)
    tracemalloc.start()
    with pytest.raises(InvalidInput, match=r"row \d+:|empty"):
        read_metrics(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Lines of three characters weigh some sixty bytes each.
    assert peak < 40 * len(text) + 10_000_000


def test_a_file_that_is_too_large_or_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lead_coordinator.pipelines.revenue import exports, table

    with pytest.raises(InvalidInput, match="No such file"):
        read_metrics(tmp_path / "no.csv")
    with pytest.raises(InvalidInput, match="Is a directory"):
        read_metrics(tmp_path)
    file = tmp_path / "a.csv"
    file.write_text("Date,Page,Clicks\n2026-11-01,/a,1\n2026-11-01,/b,1\n")
    monkeypatch.setattr(exports, "MAX_ROWS", 1)
    with pytest.raises(InvalidInput, match="row 3: over 1 rows"):
        read_metrics(file)
    monkeypatch.setattr(table, "MAX_FILE_BYTES", 10)
    with pytest.raises(InvalidInput, match="split it"):
        read_metrics(file)


# ---- what people have --------------------------------------------------------------------------------------

ENGLISH = (
    'Date,Page,Clicks,Impressions,CTR,Position\n2026-11-01,https://www.e.org/a/,"1,234","20,000",6.17%,4.25\n'
)
GERMAN = (
    "Datum;Häufigste Seiten;Klicks;Impressionen;CTR;Position\n"
    "01.11.2026;https://www.e.org/a;1.234;20.000;6,17 %;4,25\n"
)
FRENCH = (
    "Date\tPages les plus populaires\tClics\tImpressions\tCTR\tPosition\n"
    "2026-11-01\thttps://www.e.org/a#top\t1\u202f234\t20\u00a0000\t6,17%\t4,25\n"
)
SPANISH = (
    "Fecha;Página;Clics;Impresiones;CTR;Posición\n2026-11-01;https://e.org/a?x=1;1234;20000;6,17%;4,25\n"
)
BIGQUERY = "data_date,url,clicks,impressions,sum_position\n2026-11-01,https://e.org/a,1234,20000,65000\n"
SEARCH = [MetricRow("/a", DAY, clicks=1234, impressions=20000, position=4.25)]


@pytest.mark.parametrize("text", [ENGLISH, GERMAN, FRENCH, SPANISH, BIGQUERY])
def test_search_console_speaks_several_languages(text: str, tmp_path: Path) -> None:
    assert list(parse_metrics(text).rows) == SEARCH
    for encoding in ("utf-8-sig", "utf-16", "utf-8"):
        file = tmp_path / f"{encoding}.csv"
        file.write_bytes(text.replace("\n", "\r\n").encode(encoding))
        assert list(read_metrics(file).rows) == SEARCH, encoding


GA4 = (
    "# ----------------------------------------\n# Pages\n# Account: E\n# Start date: 20261101\n# "
    "End date: {end}\n"
    "# ----------------------------------------\n\n"
)
ANALYTICS = [
    MetricRow("/", DAY, views=3, sessions=2, conversions=Decimal("0"), revenue_usd=Decimal("0")),
    MetricRow("/a", DAY, views=1500, sessions=900, conversions=Decimal("3.5"), revenue_usd=Decimal("-12.5")),
]


def test_ga4_with_comments_sums_and_pages_without_a_name() -> None:
    text = GA4.format(end="20261101") + (
        "Page path and screen class,Views,Sessions,Key events,Total revenue\n"
        '/a,"1,500",900,3.5,-$12.50\n/,3,2,0,0\n(not set),9,9,0,0\n,1512,911,3.5,-12.5,Grand total\n'
    )
    found = parse_metrics(text)
    assert list(found.rows) == ANALYTICS
    assert found.measures == ("views", "sessions", "conversions", "revenue_usd")
    assert found.left_out == {"pages without a name": 1, "rows of sums": 1}


def test_ga4_in_german_by_day_and_split_by_country() -> None:
    text = GA4.format(end="20261130") + (
        "Datum;Land;Seitenpfad und Bildschirmklasse;Aufrufe;Sitzungen;Schlüsselereignisse;Gesamtumsatz\n"
        "20261101;DE;/a;1.000;600;3,0;-10,5\n20261101;AT;/a;500;300;0,5;-2\n20261101;AT;/;3;2;0;0\n"
        ";;;1503;902;3,5;-12,5\n"
    )
    assert list(parse_metrics(text).rows) == ANALYTICS


def test_a_day_can_be_given_to_a_file_without_dates_and_other_hosts_be_left_out() -> None:
    text = (
        "Top pages,Clicks,Impressions,CTR,Position\nhttps://www.e.org/a,3,10,30%,2\n"
        "https://e.org/a/,1,30,3%,4\nhttps://shop.e.org/a,7,9,77%,1\n"
    )
    found = parse_metrics(text, day=DAY, host="e.org")
    assert list(found.rows) == [MetricRow("/a", DAY, clicks=4, impressions=40, position=3.5)]
    assert found.left_out == {"pages of another host than e.org": 1}
    with pytest.raises(InvalidInput, match=r"figures: 3 pages of another host than other\.org are left out"):
        parse_metrics(text, day=DAY, host="other.org")


def test_a_row_without_a_figure_is_left_out_and_one_that_repeats_itself_on_two_hosts_is_told_of() -> None:
    text = "Date,Page path,Hostname,Views,Sessions\n20261101,/a,e.org,5,\n20261101,/b,e.org,,-\n"
    found = parse_metrics(text)
    assert list(found.rows) == [MetricRow("/a", DAY, views=5)]
    assert found.left_out == {"rows without a figure": 1}
    with pytest.raises(
        InvalidInput, match=r"row 4, 'Page path': a page of 'x\.org' where row 2 is of 'e\.org'"
    ):
        parse_metrics(text + "20261101,/a,x.org,7,\n")
    assert list(parse_metrics(text + "20261101,/a,x.org,7,\n", host="e.org").rows) == list(found.rows)


@pytest.mark.parametrize(
    ("heading", "field"),
    [
        ("Événements clés", "conversions"), ("Vues", "views"), ("Sesiones", "sessions"),
        ("Posizione", "position"),
        ("Total revenue (USD)", "revenue_usd"), ("  AVERAGE POSITION ", "position"), ("landingPage", "page"),
        ("Visualizações", "views"), ("Weergaven", "views"), ("Impressões", "impressions"),
        ("Bounce rate", None), ("", None), ("(", None),
    ],
)  # fmt: skip
def test_headings_are_known_without_case_accents_and_marks(heading: str, field: str | None) -> None:
    assert field_of(heading) == field


# ---- numbers and days --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mark", "value"),
    [
        ("1,234.5", ".", "1234.5"), ("1.234,5", ",", "1234.5"), ("1,234", ".", "1234"),
        ("1,234", ",", "1.234"),
        ("12%", ".", "0.12"), ("6,17 %", ",", "0.0617"), ("$1,000.00", ".", "1000.00"), ("-€3", ".", "-3"),
        ("1'234.5", ".", "1234.5"), (".5", ".", "0.5"), ("−2", ".", "-2"), ("12.50 EUR", ".", "12.50"),
    ],
)  # fmt: skip
def test_numbers_as_spreadsheets_write_them(text: str, mark: str, value: str) -> None:
    assert numbers.number(text, mark) == Decimal(value)


@pytest.mark.parametrize(
    "text", ["", "x", "1e5", "0x10", "1,2,3", "--1", "1.2.3", "NaN", "inf", "1 2x", "=1", "+1", "١", "1" * 41]
)
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(NotANumber):
        numbers.number(text, ".")
    with pytest.raises(NotANumber):
        numbers.whole(text if text != "1,2,3" else "1,2,3x")


@given(st.integers(-(10**12), 10**12), st.sampled_from([",", ".", "\u00a0", "\u202f", "'", ""]))
def test_counts_come_back_whatever_groups_their_digits(count: int, mark: str) -> None:
    assert numbers.whole(f"{count:,}".replace(",", mark)) == count


@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from([(",", "."), (".", ",")]))
def test_decimals_come_back_with_either_mark(value: Decimal, marks: tuple[str, str]) -> None:
    group, mark = marks
    text = f"{value:,.2f}".replace(",", "_").replace(".", mark).replace("_", group)
    assert numbers.decimal_mark([text]) == mark
    assert numbers.number(text, mark) == value


@given(st.dates(date(2000, 1, 1), date(2199, 12, 31)))
def test_days_come_back_in_every_form_that_means_one_day(day: date) -> None:
    for form in ("%Y-%m-%d", "%Y%m%d", "%d.%m.%Y", "%b %d, %Y", "%d %B %Y", "%Y-%m-%dT00:00:00Z"):
        assert numbers.day(day.strftime(form)) == day
    if day.day > 12:
        assert numbers.day(day.strftime("%m/%d/%Y")) == numbers.day(day.strftime("%d/%m/%Y")) == day


def problem_of(text: str, **more: object) -> str | None:
    """What is said of a file that is refused; None for one that is taken, which has rows then."""
    try:
        assert parse_metrics(text, **more).rows
    except InvalidInput as error:
        return str(error)
    return None


@given(st.text(max_size=300))
def test_any_text_is_a_file_or_a_clear_error(text: str) -> None:
    head = "Date,Page path,Views,Total revenue\n"
    assert (problem_of(head + text, today=DAY + timedelta(days=400)) or "none").isprintable()


@given(st.binary(max_size=400))
def test_any_bytes_are_a_text_or_a_clear_error(data: bytes) -> None:
    try:
        text = decoded(data)
    except InvalidInput:
        return
    assert (problem_of(text) or "none").isprintable()
