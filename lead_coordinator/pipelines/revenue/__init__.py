"""The revenue optimiser: what pages earn and cost, which decay, and what to do about it within a budget.

exports        a file of Search Console or analytics to rows (numbers, columns)
page           rows to what is known of a page (weeks)
analysis       pages to verdicts (trend, decay, ctr, shortfall) and opportunities (value, opportunity)
ranking        opportunities to a plan within a budget
experiment     headline and placement tests (bandit)
reading        metrics, costs and findings from the database
handler        a task of the queue; results and report show what it did

Formulas and their sources: docs/REVENUE.md.
"""
