"""QR codes of join links, for the camera of somebody who stands in front of the screen."""

from __future__ import annotations

import segno


def qr_code(text: str) -> tuple[str, ...]:
    """Return ``text`` as a QR code (ISO/IEC 18004): rows of ``0`` and ``1`` (dark), without quiet zone."""
    code = segno.make_qr(text, error="m")
    return tuple("".join("1" if module else "0" for module in row) for row in code.matrix)
