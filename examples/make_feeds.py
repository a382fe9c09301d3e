# ruff: noqa: E501 - a text a line
"""Writes examples/feeds/: three feeds of our own and a broken one, as they stood at `ANCHOR`.

Run `python examples/make_feeds.py` after a change. What is planted in them is in examples/feeds-truth.yaml, and
`lead_coordinator_tests/pipelines/intelligence/test_examples.py` looks whether all of it is found, and nothing else.
`lead-coordinator demo` serves them with their dates moved to today (pipelines/intelligence/replay.py).

Every name, place and figure is invented.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from html import escape
from pathlib import Path

ANCHOR = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
FOLDER = Path(__file__).parent / "feeds"
Entry = tuple[float, str, str]  # days before ANCHOR, title, text

# A syndicated text: two feeds carry it, with another headline and a word changed.
WIRE = (
    "The allotment society of Harrow Vale has opened a seed library in the old pump house. Members borrow a "
    "packet in spring and bring back seed of their own plants in autumn. Forty varieties of bean and squash "
    "are on the shelves, most of them given by families who have grown them for three generations. The "
    "society asks borrowers to write down where and when each row was sown, so that others can learn from it."
)

GARDEN: list[Entry] = [
    (
        0.06,
        "Peat compost sales to end in spring, minister confirms",
        "Garden centres must clear peat compost from their shelves by the end of March. The minister said the peat compost ban "
        "covers bags for home growers first.",
    ),
    (
        0.16,
        "Growers ask for clarity on the peat compost ban",
        "Nurseries want to know which mixes count as peat compost once the ban begins, and how seed trays are treated.",
    ),
    (
        0.27,
        "What the peat compost ban means for pots and trays",
        "A reader's guide to the peat compost ban: what may still be sold, and what peat compost can be replaced with.",
    ),
    (
        1.2,
        "First frost reaches the valley gardens",
        "Dahlias blackened overnight, and lifting tubers begins this week.",
    ),
    (
        1.9,
        "Hedgehog counts rise for a second autumn",
        "Volunteers saw more hedgehogs along the canal than last year.",
    ),
    (2.4, "Seed library opens in the old pump house", WIRE),
    (
        3.1,
        "Apple scab was mild after the dry summer",
        "Orchard owners report clean fruit and short storage losses.",
    ),
    (
        4.2,
        "Leaf mould beats bought mulch in a village trial",
        "Plots under leaf mould kept moisture for longest.",
    ),
    (
        5.3,
        "Bare-root roses arrive at nurseries",
        "Planting season opens with fewer varieties and steady prices.",
    ),
    (
        6.2,
        "Wormery makers report full order books",
        "Makers say flat dwellers are behind the rise in orders.",
    ),
    (
        7.4,
        "A winter pruning calendar for soft fruit",
        "Currants now, raspberries later, gooseberries when it is dry.",
    ),
    (8.1, "Broad beans sown in autumn crop earlier", "A comparison of sowing dates on a windy hillside."),
    (
        9.2,
        "Peat compost and three substitutes in a school garden",
        "Pupils weigh the radishes of twelve pots.",
    ),
    (9.8, "Ladybird houses disappoint in a school survey", "Most boxes stayed empty over three seasons."),
    (
        10.6,
        "Greenhouse bubble wrap compared with fleece",
        "Two nights of frost measured in three small greenhouses.",
    ),
    (11.3, "Garlic growers try planting through straw", "Straw kept weeds down and voles fed."),
    (11.9, "Rainwater butts are worth cleaning in November", "A short routine before the taps freeze."),
    (12.4, "Old quince varieties return to parish gardens", "Grafts are handed out on Saturday mornings."),
    (12.9, "Robins nest early in potting sheds", "Ringing groups ask gardeners to leave doors ajar."),
    (13.3, "Chrysanthemum show moves to a bigger hall", "Exhibitors bring two hundred vases this year."),
]

ENERGY: list[Entry] = [
    (
        0.10,
        "Peat compost ban: retailers prepare peat-free bags",
        "Chains say peat-free bags replace peat compost from March, as the ban on peat compost is confirmed.",
    ),
    (
        0.22,
        "Prices expected to move when the peat compost ban starts",
        "Analysts see the price of coir and bark up by a tenth once the peat compost ban begins.",
    ),
    (
        1.1,
        "Plug-in balcony solar allowed without a permit",
        "From January a balcony solar set of up to 800 watts needs no permit. Landlords can object to balcony solar only for "
        "safety reasons.",
    ),
    (
        1.7,
        "Boiler servicing backlog grows before winter",
        "Engineers are booked for five weeks in the north.",
    ),
    (2.2, "Tariff comparison sites agree on one layout", "Bills will show the unit rate first."),
    (3.2, "Loft insulation grants reopen for terraces", "The fund is smaller than in the spring round."),
    (
        4.1,
        "Heat batteries tested in a row of cottages",
        "Tenants kept radiators warm through the evening peak.",
    ),
    (4.9, "Smart meters lose signal in thick stone walls", "A relay for the hallway is on trial."),
    (5.6, "Secondary glazing wins over planners in old towns", "Conservation officers accept slim frames."),
    (
        6.4,
        "District heating prices published street by street",
        "The regulator wants comparisons to be simple.",
    ),
    (7.2, "Chimney balloons recalled after a fitting error", "One batch of a draught stopper is affected."),
    (7.9, "Induction hobs cause fewer kitchen fires", "Fire services compare four years of reports."),
    (
        8.7,
        "Microgrid keeps an island lit through a storm",
        "Three turbines and a barge of cells were enough.",
    ),
    (9.4, "Rental flats get a damp inspection scheme", "Councils train forty new inspectors."),
    (10.2, "Hot water cylinders make a comeback", "Plumbers fit more of them than in any year since 2009."),
    (10.9, "Wood stove sales fall in smoke control areas", "Dealers turn to servicing and sweeping."),
    (11.6, "Ventilation is the cheap part of a retrofit", "Surveyors list what is forgotten most."),
    (
        12.2,
        "Community turbine repays its lenders early",
        "Wind was better than forecast in eight of ten years.",
    ),
    (12.7, "Street lamps dimmed after midnight save a third", "Two towns compare notes and complaints."),
    (13.4, "Thermal curtains measured in a Victorian bay", "The draught below the sill mattered more."),
]

CITY: list[Entry] = [
    (
        0.13,
        "Allotment groups welcome the peat compost ban",
        "Allotment groups have made their own mixes for years; the peat compost ban changes little for them, they say.",
    ),
    (
        0.24,
        "Councils stop buying peat compost ahead of the ban",
        "Parks departments switch to green waste before the peat compost ban begins in March.",
    ),
    (
        0.9,
        "Balcony solar without a permit: what renters may do",
        "Renters may hang a balcony solar set of 800 watts without a permit from January, unless safety is at risk.",
    ),
    (1.5, "Tram line extension opens two weeks early", "Shops along the avenue expect more visitors."),
    (2.3, "Harrow Vale lends out seed", WIRE.replace("others", "neighbours")),
    (2.9, "Night market returns to the canal basin", "Forty stalls are expected on the first evening."),
    (3.6, "School streets cut morning traffic by half", "Parents walk the last two hundred metres."),
    (4.4, "Public piano moved to the central library", "Players book by the quarter of an hour."),
    (5.1, "Bakery co-operative takes over a closed branch", "Nine bakers share the ovens and the rent."),
    (5.8, "Swimming pool reopens with a shallower end", "The boiler was the reason for the delay."),
    (6.6, "Cargo bike lending doubles in the old town", "Most loans are for furniture and nursery runs."),
    (7.3, "Repair café mends its thousandth toaster", "Lamps and trousers follow close behind."),
    (8.2, "Noise map shows quiet courtyards", "Residents send readings from their windows."),
    (8.9, "Drinking fountains return to the squares", "A first dozen is fitted with counters."),
    (9.7, "Roof terraces counted from the air", "Fewer than one in twenty flat roofs is used."),
    (10.4, "Chess club wins a permanent room", "The former ticket hall seats sixty."),
    (11.1, "Ferry timetable loses its last evening trip", "A petition asks for weekends at least."),
    (11.8, "Fewer pigeons after bins are sealed", "Cleaning crews report drier pavements."),
    (12.6, "Clock tower lit in new colours", "The lamps use a quarter of the current."),
    (13.2, "Housing queue moves online with paper kept", "Clerks still read forms to those who ask."),
]

BROKEN: list[Entry] = [
    (
        0.19,
        "Gardeners stock up before the peat compost ban",
        "Some shops limit peat compost to four bags a head until the ban.",
    ),
    (2.6, "Pumpkins & squash kept for Christmas", "Cure them in the sun <first, then somewhere cool."),
    (6.9, "Compost heaps that stay warm in winter", "Size matters more than any activator."),
]


def moment(days: float) -> datetime:
    return (ANCHOR - timedelta(days=days)).replace(second=0, microsecond=0)


def rss(entries: list[Entry]) -> str:
    items = "\n".join(
        f"    <item>\n      <title>{escape(title)}</title>\n      <link>https://gardenpost.example/{slug(title)}</link>\n"
        f'      <guid isPermaLink="true">https://gardenpost.example/{slug(title)}</guid>\n'
        f"      <pubDate>{format_datetime(moment(days), usegmt=True)}</pubDate>\n"
        f"      <description>{escape('<p>' + text + '</p>')}</description>\n    </item>"
        for days, title, text in entries
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<rss version="2.0">\n  <channel>\n    <title>The Garden Post</title>\n'
        "    <link>https://gardenpost.example/</link>\n    <description>News for people who grow things</description>\n"
        f"{items}\n  </channel>\n</rss>\n"
    )


def atom(entries: list[Entry]) -> str:
    items = "\n".join(
        f"  <entry>\n    <title>{escape(title)}</title>\n    <id>tag:warmhome.example,2026:{slug(title)}</id>\n"
        f'    <link rel="alternate" href="https://warmhome.example/{slug(title)}"/>\n'
        f"    <updated>{moment(days):%Y-%m-%dT%H:%M:%SZ}</updated>\n    <summary>{escape(text)}</summary>\n  </entry>"
        for days, title, text in entries
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<feed xmlns="http://www.w3.org/2005/Atom">\n  <title>Warm Home Weekly</title>\n'
        "  <id>https://warmhome.example/</id>\n"
        f"  <updated>{ANCHOR:%Y-%m-%dT%H:%M:%SZ}</updated>\n{items}\n</feed>\n"
    )


def json_feed(entries: list[Entry]) -> str:
    items = [
        {
            "id": f"https://citylife.example/{slug(title)}",
            "url": f"https://citylife.example/{slug(title)}",
            "title": title,
            "content_text": text,
            "date_published": f"{moment(days):%Y-%m-%dT%H:%M:%SZ}",
        }
        for days, title, text in entries
    ]
    feed = {
        "version": "https://jsonfeed.org/version/1.1",
        "title": "City Life",
        "home_page_url": "https://citylife.example/",
    }
    return json.dumps(feed | {"items": items}, indent=1, ensure_ascii=False) + "\n"


def broken(entries: list[Entry]) -> str:
    """No declaration, an unknown prefix, bare ampersands and angle brackets, and it ends in the middle."""
    items = "\n".join(
        f"<item><title>{title}</title><link>https://plotnotes.example/{slug(title)}</link>"
        f"<pubDate>{format_datetime(moment(days), usegmt=True)}</pubDate><plot:mood>fine</plot:mood>"
        f"<description>{text}</description></item>"
        for days, title, text in entries
    )
    return f"<rss version=2.0><channel><title>Plot Notes & Queries</title>\n{items}\n<item><title>Unfin"


def slug(title: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    written = {
        "garden-post.xml": rss(GARDEN),
        "warm-home.atom": atom(ENERGY),
        "city-life.json": json_feed(CITY),
        "plot-notes-malformed.xml": broken(BROKEN),
    }
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
