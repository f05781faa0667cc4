"""The report of a comparison: page, Markdown, tables and figures."""
