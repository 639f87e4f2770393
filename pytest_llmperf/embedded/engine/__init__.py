"""The engine behind the HTTP server: scheduler, decoder or modelled step times, tokenizer."""
