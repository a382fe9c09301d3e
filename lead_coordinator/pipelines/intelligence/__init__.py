"""The intelligence engine: feeds in, a briefing and topics out.

settings.py   what a site may set
parse.py      one feed's bytes as items: RSS, Atom, JSON Feed, malformed ones too
reader.py     parsing in a child process with limits of time and memory
feeds.py      polling: which feeds are due, conditional requests, what came back
fulltext.py   the text of linked pages, where a feed says only a title
items.py      an item's words and signature; exact and near duplicates
vectors.py    bags of words, their weights, and cosine similarity
stories.py    items grouped into stories over days
bursts.py     terms that rise against their own history, with a false-alarm rate
coverage.py   who covers a story, and whether we do
topics.py     proposals with an expected value and its evidence
naming.py     names and a summary by a model, where there is one
briefing.py   the report of the day, as plain data
pages.py      the report as Markdown, HTML and files
state.py      what the database knows of a site, and what a round adds to it
round.py      one round over plain data: from fetched feeds to proposals
assignment.py what a task asks for
outcome.py    what a task leaves: content tasks and a result
handler.py    the task: reads, polls, decides, records, reports
report.py     figures, tables and pictures of a batch
"""
