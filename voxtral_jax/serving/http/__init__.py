"""The HTTP server: OpenAI's speech API on an engine, with voices, a WebSocket and limits.

`app.create_app` makes it; the package imports nothing, so that the command line stays light.
"""
