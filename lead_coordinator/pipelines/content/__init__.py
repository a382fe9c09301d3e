"""The content pipeline: a brief goes in, a published article comes out.

brief.py      what a person asks for
topics.py     reading files of briefs
schemas.py    the shapes of the three answers that a model gives
prompts.py    the versioned templates of prompts/
steps.py      outline → draft → edit and check, over any ModelCaller
text.py       plain functions over text that a model wrote
article.py    the finished article and its quality check
render.py     article → Markdown and HTML, safe whatever the model wrote
site.py       the static site: atomic pages, index, feed, sitemap (files.py: atomic files and locks)
publish.py    publishing once, whatever dies in between
task.py       one task, from its payload to its end
worker.py     a batch of tasks, worked concurrently under a lease (report.py: what became of it)
assets.py     its face in Dagster, with job.py
"""
