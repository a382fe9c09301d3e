"""Plain functions over text in natural language that several pipelines share: words, and near duplicates.

Imports nothing of the package but `errors`.
"""
