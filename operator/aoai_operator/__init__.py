"""aoai-operator: regional Azure OpenAI endpoints as one balanced service; Python decides, Envoy carries."""
