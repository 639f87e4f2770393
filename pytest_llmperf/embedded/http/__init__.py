"""The HTTP server in front of the engine: the OpenAI API as vLLM speaks it."""
