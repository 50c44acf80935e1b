"""Web environments, in real headless Chromium."""
