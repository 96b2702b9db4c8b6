"""The images API in OpenAI's form, and in Z.ai's: other words for the same requests."""
