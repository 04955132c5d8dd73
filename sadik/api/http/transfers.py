"""Bodies in and out, within limits of size, memory and time.

All bodies being received or sent count against one budget of bytes, taken as they arrive and given back when
they are through. A client that announces much and sends nothing holds nothing; many big bodies together are
refused with 503 before they fill the memory.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from aiohttp import HttpVersion11, web

from sadik.api.http.limits import HttpLimits
from sadik.api.http.problems import Problem, busy
from sadik.errors import LimitReached

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ByteBudget:
    """Bytes of bodies that may be in memory at once."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used = 0

    def reserve(self) -> Reservation:
        """An empty reservation, to be used in a ``with`` block, at whose end everything is given back."""
        return Reservation(self)


class Reservation:
    """One request's part of the budget."""

    __slots__ = ("_budget", "_taken")

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self._taken = 0

    def take(self, count: int) -> bool:
        """Take ``count`` more bytes; False, and nothing taken, when others hold too much. The only holder
        always may.
        """
        budget = self._budget
        if budget.used + count > budget.bytes_max and budget.used > self._taken:
            return False
        budget.used += count
        self._taken += count
        return True

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.used -= self._taken
        self._taken = 0


async def read_body(
    request: web.BaseRequest, bytes_max: int, reservation: Reservation, limits: HttpLimits
) -> bytes:
    """The whole body of a request; never a part of one that broke off.

    Raises:
        Problem: 413 before more than ``bytes_max`` is read, 408 too slow, 400 not framed as announced, 415
        compressed, 417
                an expectation we do not know, 503 no memory for it now. The connection closes.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        detail = "send the value as it is; a Content-Encoding would be lost when it is read"
        raise Problem(415, "ENCODING", detail, headers={"Accept-Encoding": "identity"}, close=True)
    announced = request.content_length
    if announced is not None and announced > bytes_max:
        raise _too_large(bytes_max)
    await _confirm_expectation(request)
    chunks: list[bytes] = []
    received = 0
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.request_timeout_s
    try:
        async with asyncio.timeout_at(deadline) as timeout:
            while chunk := await request.content.readany():
                received += len(chunk)
                if received > bytes_max:
                    raise _too_large(bytes_max)
                if not reservation.take(len(chunk)):
                    raise busy("too many bytes of bodies are in transfer; try again", close=True)
                chunks.append(chunk)
                timeout.reschedule(deadline + received / limits.transfer_bytes_s_min)
    except TimeoutError:
        raise Problem(408, "TIMEOUT", "the body came too slowly; nothing was changed", close=True) from None
    except (web.RequestPayloadError, ConnectionError) as error:
        detail = f"the body broke off, or is not framed as its headers say: {error}"
        raise Problem(400, "ERR", detail, close=True) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def send(
    request: web.BaseRequest, response: web.Response, reservation: Reservation, limits: HttpLimits
) -> bool:
    """Send an answer and wait until the operating system has taken all but a little of it.

    Returns:
        False when the client went away, or did not read at ``transfer_bytes_s_min`` and was cut off.
    """
    size = len(response.body) if isinstance(response.body, bytes | bytearray) else 0
    reservation.take(size)
    try:
        async with asyncio.timeout(limits.request_timeout_s + size / limits.transfer_bytes_s_min):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if (transport := request.transport) is not None:
            transport.abort()
        return False
    except ConnectionError:
        return False
    return True


async def _confirm_expectation(request: web.BaseRequest) -> None:
    expectation = request.headers.get("Expect")
    if expectation is None:
        return
    if expectation.strip().lower() != "100-continue":
        raise Problem(417, "ERR", "the only expectation known is 100-continue", close=True)
    if request.version >= HttpVersion11 and request.can_read_body:
        await request.writer.write(_CONTINUE)
        # What is written before the answer must not count as a part of it.
        request.writer.output_size = 0


def _too_large(bytes_max: int) -> Problem:
    return Problem(413, LimitReached.code, f"the body is larger than {bytes_max} bytes", close=True)
