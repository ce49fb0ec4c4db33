"""Models behind OpenAI's HTTP interface."""
