"""The numbers of predictions on file: as tables, and as one page with curves and pictures."""
