"""Reading pages that strangers wrote, without being hurt by them.

failures.py    why a page wasn't fetched
urls.py        addresses in one canonical form
addresses.py   which addresses may be connected to, and connections pinned to the address that was checked
decoding.py    bodies, decompressed within a bound
robots.py      what robots.txt permits
politeness.py  turns at a host
exchange.py    one request and its answer, within bounds
fetch.py       the fetcher: all of the above
serve.py       a small server of misbehaving pages, for examples and tests
markup.py      HTML cut to what can be parsed at a bounded cost, and its visible text
page.py        what a fetched body is: type, charset, text, main text
"""
