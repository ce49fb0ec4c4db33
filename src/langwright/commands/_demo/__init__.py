"""What only the demo does: prompts cut from Python source, and instructions mined from it."""
