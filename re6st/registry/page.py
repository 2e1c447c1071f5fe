"""The operators' page: static files out of the package, and what browsers may do with them.

The page is a client of the operator API like any other. Its content security policy allows nothing from
outside, no inline code, and no markup made from texts.
"""

from __future__ import annotations

import hashlib
from importlib import resources

from aiohttp import web

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/map.js": ("map.js", "text/javascript"),
    "/settings.js": ("settings.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Page:
    """The files, read once."""

    def __init__(self) -> None:
        directory = resources.files("re6st.registry") / "static"
        self._files = {
            path: ((directory / name).read_bytes(), media_type) for path, (name, media_type) in FILES.items()
        }

    def add_to(self, application: web.Application) -> None:
        """Serve the page at ``/``."""
        for path in FILES:
            application.router.add_get(path, self.serve)

    async def serve(self, request: web.Request) -> web.Response:
        """Return a file of the page."""
        body, media_type = self._files[request.path]
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {
            "Content-Security-Policy": CONTENT_SECURITY_POLICY,
            "Cache-Control": "no-cache",
            "ETag": tag,
        }
        if request.headers.get("If-None-Match") == tag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers, content_type=media_type, charset="utf-8")
