"""The content pipeline: a brief goes in, a published article comes out, and stays up to date.

settings.py     what a site may set: voice, quality, gate, target, models
orders.py       what a task may ask for (brief.py: an article that is wanted; topics.py: files of them)
research.py     notes from the sources of a brief, and our own articles to link to (links.py)
schemas.py      the shapes of the answers that a model gives; prompts.py: the versioned templates of prompts/
steps.py        outline → draft → edit and check, and one revision, over any ModelCaller (kept.py: paid once)
text.py         plain functions over text that a model wrote
article.py      the finished article
quality.py      the gate, with readability.py, markup.py, language.py, claims.py, likeness.py
render.py       article → Markdown and HTML, safe whatever the model wrote
targets.py      where articles go: the static site (site.py, listings.py, files.py), wordpress.py
publish.py      publishing each revision once, whatever dies in between
handler.py      one task, from its order to its outcome (desk.py; provenance.py; report.py, refreshed.py)
assets.py       its face in Dagster; editorial.py: the job by which a person decides
"""
