"""Names of columns in exports of Search Console and analytics (GA4), in the languages they come in.

Search Console: the report, its API, the BigQuery export, Looker Studio. Analytics: reports, explorations, the
Data API. Names are compared without case, accents, spaces and marks.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal, get_args

Measure = Literal["clicks", "impressions", "position", "views", "sessions", "conversions", "revenue_usd"]
Field = Literal["page", "day", "ctr", "sum_position", "hostname"] | Measure
MEASURES: tuple[Measure, ...] = get_args(Measure)
WHOLE: frozenset[str] = frozenset({"clicks", "impressions", "views", "sessions"})

# Each in English, German, French, Spanish, Italian, Portuguese, Dutch where they differ.
_NAMES: dict[Field, str] = {
    "page": "page | pages | top pages | url | landing page | page path | page path and screen class "
    "| pagepath | "
    "page path + query string | page location | pagelocation | landing page + query string | address | "
    "page path and screen name | full page url | fullpageurl | landingpage | "
    "seite | häufigste seiten | die häufigsten seiten | seitenpfad | seitenpfad und bildschirmklasse "
    "| zielseite | "
    "pages les plus populaires | principales pages | chemin de la page | chemin de la page et classe "
    "de l'écran | "
    "página | páginas principales | ruta de página y clase de pantalla | ruta de la página | página "
    "de destino | "
    "pagina | pagine principali | percorso pagina | percorso pagina e classe schermata | "
    "páginas principais | caminho da página | caminho da página e classe da tela | "
    "populairste pagina's | belangrijkste pagina's | paginapad | paginapad en schermklasse",
    "hostname": "hostname | host name | host",
    "day": "date | day | data_date | event date | datum | tag | jour | fecha | día | data | giorno | "
    "dia | dag",
    "clicks": "clicks | url clicks | klicks | clics | clic | cliques | klikken",
    "impressions": "impressions | impressionen | impresiones | impressioni | impressões | vertoningen",
    "ctr": "ctr | url ctr | site ctr | klickrate | taux de clics | average ctr | durchschnittliche ctr",
    "position": "position | average position | avg position | durchschnittliche position | posición | "
    "posición media | posizione | posizione media | posição | posição média | positie | position moyenne",
    "sum_position": "sum_position",
    "views": "views | screenpageviews | page views | pageviews | aufrufe | seitenaufrufe | vues | vistas | "
    "visualizzazioni | visualizações | weergaven | unique pageviews",
    "sessions": "sessions | sitzungen | sesiones | sessioni | sessões | sessies",
    "conversions": "conversions | key events | keyevents | schlüsselereignisse | événements clés | "
    "conversiones | "
    "eventos clave | eventi chiave | conversioni | conversões | eventos principais | conversies | "
    "belangrijke gebeurtenissen | transactions | ecommerce purchases | purchases",
    "revenue_usd": "total revenue | revenue | totalrevenue | purchase revenue | purchaserevenue | "
    "revenue_usd | "
    "revenue usd | gesamtumsatz | umsatz | revenu total | revenus | ingresos totales | ingresos | "
    "entrate totali | entrate | receita total | receita | totale opbrengst | page value total | ad revenue | "
    "total ad revenue",
}  # fmt: skip

# Columns that split a page's day into several rows, which are then summed up.
DIMENSIONS = (
    "query | country | device | search appearance | source | medium | channel | campaign | session source | "
    "session medium | session source / medium | event name | search_type | is_anonymized_query | "
    "session default channel group | suchanfrage | land | gerät | requête | pays | appareil | "
    "consulta | país | "
    "dispositivo | ricerca | paese | nth day | new / returning"
)
# The names of a row of sums at the foot of a file.
TOTALS = frozenset(
    {"grandtotal", "total", "totals", "gesamt", "gesamtsumme", "totalgeneral", "totale", "totaal", "totaux"}
)


def folded(name: str) -> str:
    """Lower case, letters and digits only, without accents: `Événements clés` → `evenementscles`."""
    plain = unicodedata.normalize("NFKD", name[:200]).casefold()
    return re.sub(r"[^a-z0-9]", "", plain)


FIELDS: dict[str, Field] = {
    folded(name): field for field, names in _NAMES.items() for name in names.split(" | ")
}
SPLITTING = frozenset(folded(name) for name in DIMENSIONS.split(" | "))


def field_of(name: str) -> Field | None:
    """What a column with this heading holds; None where it isn't one of ours."""
    plain = folded(name)
    found = FIELDS.get(plain)
    if found is None and "(" in name:  # "Total revenue (USD)", "Clicks (web)"
        found = FIELDS.get(folded(name.partition("(")[0]))
    return found
