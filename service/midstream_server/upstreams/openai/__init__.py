"""What the two dialects of OpenAI share."""
