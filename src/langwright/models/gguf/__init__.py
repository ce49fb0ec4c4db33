"""llama.cpp's GGUF files as model folders: read, and written."""
