"""Numbers and names of interfaces, asked through a socket that is open already (netdevice(7); I/O).

What the socket module of Python has for this opens a socket each time: when file descriptors run short it
fails, and a healthy tunnel would look as if its interface had gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933
_REQUEST = struct.Struct("@16si20x")
"""``struct ifreq``: name with a final NUL, index, the rest of the union."""
_LONGEST_NAME = 15
_GONE = (errno.ENODEV, errno.ENXIO)


def interface_index(open_socket: socket.socket, name: str) -> int | None:
    """Return the number of the interface ``name`` in the network namespace of ``open_socket``.

    None if there is no such interface. Raises :class:`OSError` when the kernel does not tell.
    """
    encoded = os.fsencode(name)
    if not 0 < len(encoded) <= _LONGEST_NAME or b"\0" in encoded:
        return None
    answer = _ask(open_socket, _SIOCGIFINDEX, encoded, 0)
    return answer[1] if answer is not None else None


def interface_name(open_socket: socket.socket, index: int) -> str:
    """Return the name of the interface ``index``, empty if there is none.

    Raises :class:`OSError` when the kernel does not tell.
    """
    answer = _ask(open_socket, _SIOCGIFNAME, b"", index)
    return os.fsdecode(answer[0].partition(b"\0")[0]) if answer is not None else ""


def _ask(open_socket: socket.socket, request: int, name: bytes, index: int) -> tuple[bytes, int] | None:
    try:
        answer = fcntl.ioctl(open_socket, request, _REQUEST.pack(name, index))
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    found_name, found_index = _REQUEST.unpack(answer)
    return found_name, found_index
