"""What a configuration may be, and how a mistake in it is told."""
