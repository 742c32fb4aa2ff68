"""Ask an LLM for scores: prompts, requests, answers."""
