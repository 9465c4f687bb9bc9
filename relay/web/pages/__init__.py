"""The pages: each reads what it shows, and names its template."""
