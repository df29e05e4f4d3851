"""What operators set for plugins: values, secrets, and the keys that secrets are encrypted with."""
