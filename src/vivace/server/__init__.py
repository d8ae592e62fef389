"""The HTTP server: OpenAI's wire and our own search, over collections that exist."""
