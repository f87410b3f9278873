"""The report on a sweep: results as frames, verdict, text, page and pictures."""
