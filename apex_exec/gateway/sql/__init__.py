"""The SQL of plugins: parsed, checked and written anew."""
