"""What a sweep came to: results, verdict, text, page and pictures."""
