"""The SEO monitor: a site goes in, findings with a life and two scores come out.

settings.py   every threshold and limit
facts.py      what is known of a page, as plain data
parse.py      a page's HTML, parsed once into those facts (collected.py: within the room they have)
canonical.py  what a page tells search engines: canonical addresses, robots words
jsonld.py     structured data: what is wrong with it
sitemap.py    sitemaps and sitemap indexes, read within bounds
visit.py      one address visited: a page, a sitemap, or a resource that is only looked at
crawl.py      a slice of a crawl: the frontier lives in the database
index.py      the site as the rules see it: every address with its state, and who links to whom
robots.py     what is wrong with a robots.txt
rules/        the rules, grouped by subject; each says what it found and how to mend it
evaluate.py   all rules over all pages
score.py      the page score and the site score
findings.py   findings as rows, and the tasks that mend the critical ones
audit.py      one audit from its start to its end, slice by slice
handler.py    a task of the queue; results.py: what it leaves; report.py: what a run shows
assets.py     its face in Dagster
"""
