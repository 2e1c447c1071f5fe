"""The operator API: what each request does, the table of all routes, and the HTTP side."""
