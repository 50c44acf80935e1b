"""The only way out of a session: a SOCKS server of its own that connects to nothing else.

All that a session's pages ask for goes through it, whatever asks and however: pictures, scripts,
data, web sockets, workers, prefetching. It sees host and port, which is what an allow-list is
about; what is said through a connection is none of its business.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from agentgym.errors import BrowserError

logger = logging.getLogger(__name__)

CONNECT_S = 20.0
MAX_CONNECTIONS = 256
_CHUNK = 1 << 16
_REFUSED = "net::ERR_BLOCKED_BY_CLIENT"
_FAILED, _NOT_ALLOWED = 1, 2  # answers of SOCKS 5, RFC 1928
_BY_NAME, _BY_IP4, _BY_IP6 = 3, 1, 4


class Relay:
    """One session's SOCKS server. Only on the browser's loop.

    Args:
        allows: tells of a host and a port whether they may be connected to.
        checks: tells of a host whether its name may only stand for public addresses.
    """

    def __init__(
        self,
        allows: Callable[[str, int], bool] = lambda host, port: False,
        checks: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self.allows = allows
        self.checks = checks
        self._server: asyncio.Server | None = None
        self._failures: dict[tuple[str, int], str] = {}
        self._last = ""
        self._open: set[asyncio.Task[None]] = set()
        self.blocked: dict[str, int] = {}
        """How often what is not allowed was asked for, by "host:port"."""

    async def start(self) -> str:
        """Begin to serve.

        Returns:
            The address for Chromium, such as ``socks5://127.0.0.1:40123``.
        """
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"socks5://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """End all connections; may be called twice."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._open:
            task.cancel()

    def explained(self, url: str, problem: str) -> str:
        """Chromium's word for why an address cannot be had, as it would be without a relay."""
        if not problem.startswith("net::ERR_SOCKS_CONNECTION"):
            return problem
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        # A redirect may have led elsewhere.
        return self._failures.get((parts.hostname or "", port), self._last) or problem

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._connection(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError) as error:
            logger.debug("a connection ended: %r", error)
        finally:
            self._open.discard(task)
            writer.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await self._asked(reader, writer)
        if asked is None:
            return
        host, port = asked
        try:
            there, back = await self._connected(host, port)
        except BrowserError as error:
            self._failures[asked] = self._last = str(error)
            refused = _NOT_ALLOWED if str(error) == _REFUSED else _FAILED
            writer.write(bytes([5, refused, 0, _BY_IP4, 0, 0, 0, 0, 0, 0]))
            await writer.drain()
            return
        self._failures.pop(asked, None)
        try:
            writer.write(bytes([5, 0, 0, _BY_IP4, 0, 0, 0, 0, 0, 0]))
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        finally:
            back.close()

    async def _asked(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int] | None:
        """What Chromium wants to be connected to; None if it is not Chromium that asks."""
        version, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        if version != 5:
            return None
        writer.write(bytes([5, 0]))
        version, command, _, kind = await reader.readexactly(4)
        if version != 5 or command != 1:
            return None
        if kind == _BY_NAME:
            (length,) = await reader.readexactly(1)
            host = (await reader.readexactly(length)).decode("ascii", "replace")
        elif kind in (_BY_IP4, _BY_IP6):
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        else:
            return None
        return host.rstrip(".").lower(), int.from_bytes(await reader.readexactly(2), "big")

    async def _connected(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection.

        Raises:
            BrowserError: there is none, in Chromium's word for it.
        """
        if not self.allows(host, port) or len(self._open) > MAX_CONNECTIONS:
            name = f"{host}:{port}"
            self.blocked[name] = self.blocked.get(name, 0) + 1
            raise BrowserError(_REFUSED)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_S):
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                # A public name may not lead to this machine or its network.
                if self.checks(host) and not all(_is_global(f[4][0]) for f in found):
                    self.blocked[f"{host}:{port}"] = 1
                    raise BrowserError(_REFUSED)
                return await _first([str(f[4][0]) for f in found], port)
        except ConnectionRefusedError:
            raise BrowserError("net::ERR_CONNECTION_REFUSED") from None
        except socket.gaierror:
            raise BrowserError("net::ERR_NAME_NOT_RESOLVED") from None
        except TimeoutError:
            raise BrowserError("net::ERR_CONNECTION_TIMED_OUT") from None
        except OSError:
            raise BrowserError("net::ERR_ADDRESS_UNREACHABLE") from None


async def _first(
    addresses: list[str], port: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the first address that answers."""
    for address in addresses[:-1]:
        try:
            return await asyncio.open_connection(address, port)
        except OSError as error:
            logger.debug("%s does not answer: %r", address, error)
    return await asyncio.open_connection(addresses[-1], port)


def _is_global(address: object) -> bool:
    return ipaddress.ip_address(str(address).partition("%")[0]).is_global


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Hand on what comes until nothing comes any more."""
    try:
        while data := await source.read(_CHUNK):
            sink.write(data)
            await sink.drain()
    finally:
        if sink.can_write_eof() and not sink.is_closing():
            sink.write_eof()
