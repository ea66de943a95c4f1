"""The language model: what there is (`catalogue`), how it is loaded and read (`model`), GGUF conversion (`gguf`)."""
