"""The report: measured results beside the published ones, as tables, plots and one HTML page."""
