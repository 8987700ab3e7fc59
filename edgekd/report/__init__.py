"""The report: what was measured, as data, as a table, as a page."""
