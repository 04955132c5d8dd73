"""Links over TCP. What is decided about them is in ``links.py``; here are listener, dialling and the tick's
timer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from sadik.comms.connection import Connection, Outbox
from sadik.comms.link import Link
from sadik.comms.links import Dial, Links
from sadik.comms.transport import Identity, Receiver
from sadik.config import ClusterConfig
from sadik.env.clock import Clock
from sadik.env.entropy import Entropy
from sadik.settings import Address

log = logging.getLogger("sadik.comms")

BACKLOG: Final = 128


class TcpTransport(Links):
    """The ``Transport`` of production.

    Args:
        listen: Where other nodes connect; port 0 lets the system choose.
        secret: What every node of the cluster knows; None asks nobody for it.
        payload_bytes_max: Longest payload of a frame; longer ones are neither sent nor taken.
        receiver: Who hears of everything; or ``set_receiver``, before ``start``.
    """

    def __init__(
        self,
        listen: Address,
        identity: Identity,
        secret: bytes | None,
        config: ClusterConfig,
        receiver: Receiver | None = None,
        *,
        clock: Clock,
        entropy: Entropy,
        payload_bytes_max: int,
    ) -> None:
        super().__init__(
            identity=identity,
            secret=secret,
            config=config,
            clock=clock,
            entropy=entropy,
            payload_bytes_max=payload_bytes_max,
            receiver=receiver,
        )
        self._listen = listen
        self._timeout_ms = config.peer_timeout_ms
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._parted: asyncio.Future[None] | None = None

    async def start(self) -> Address:
        """Listen and dial; returns the bound address. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._outbox = Outbox()
        self._server = await loop.create_server(
            lambda: Connection(self.accepted, self._outbox, timeout_ms=self._timeout_ms),
            self._listen.host,
            self._listen.port,
            backlog=BACKLOG,
        )
        bound = self._server.sockets[0].getsockname()
        self.begin()
        self._run_timer()
        return Address(self._listen.host, bound[1])

    async def stop(self) -> None:
        """Close everything; gives what is queued ``peer_timeout_ms`` to be sent."""
        if self._server is not None:
            self._server.close()
        self.finish()
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        # The timer goes on: it aborts what does not end.
        self._parted = asyncio.get_running_loop().create_future()
        self._look_whether_parted()
        await self._parted
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None

    def _run_timer(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.tick_ns / 1e9, self._run_timer)
        self.tick()
        self._look_whether_parted()

    def _look_whether_parted(self) -> None:
        if self._parted is not None and not self._parted.done() and not self.is_parting:
            self._parted.set_result(None)

    def hold(self) -> None:
        """See ``Transport``."""
        self._outbox.hold()

    def flush(self) -> None:
        """See ``Transport``."""
        self._outbox.flush()

    def _open(self, dial: Dial, attempt: int) -> None:
        task = asyncio.get_running_loop().create_task(self._dial(dial, attempt))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _dial(self, dial: Dial, attempt: int) -> None:
        def attach(wire: Connection) -> Link | None:
            return self.opened(dial, attempt, wire)

        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                await asyncio.get_running_loop().create_connection(
                    lambda: Connection(attach, self._outbox, timeout_ms=self._timeout_ms),
                    dial.address.host,
                    dial.address.port,
                )
        except TimeoutError:
            self.failed(dial, attempt, "no answer")
        except OSError as error:
            self.failed(dial, attempt, error.strerror or str(error))
        except UnicodeError as error:
            # Of a host name from another node's record.
            self.failed(dial, attempt, str(error))
