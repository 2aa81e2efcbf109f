"""Show a scene and its mosaics side by side: a local server for the browser, or one self-contained HTML file."""
