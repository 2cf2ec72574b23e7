"""Where an application is served: a socket bound before anything is computed, and a server that ends cleanly."""

import errno
import importlib.util
import ipaddress
import logging
import re
import socket
from collections.abc import Sequence
from typing import Any

from featcache.base.commands import pip_install
from featcache.base.errors import InvalidSettings

_SECONDS_TO_END = 3


def check_web() -> None:
    """Raise `InvalidSettings` if what serves the page is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise InvalidSettings(f"explore needs a web server: {pip_install('web')}")


def is_loopback(host: str) -> bool:
    """Whether what listens on host can be reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_names(given: Sequence[str]) -> tuple[str, ...]:
    """Return names of --allow-host as a browser sends them; raise `InvalidSettings` for what is no name of a host."""
    names = tuple(_host_name(text) for text in given)
    for text, name in zip(given, names, strict=True):
        if not name:
            raise InvalidSettings(
                f"--allow-host {text}: give the name alone, as in hub.example.org: no https://, port, path or *"
            )
    return names


def _host_name(text: str) -> str:
    """Return a name or an address in lower case, as `urlsplit` gives it; '' for anything else."""
    bare = text.strip().removeprefix("[").removesuffix("]").removesuffix(".")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        name = bare.encode("idna").decode().lower()
    except UnicodeError:
        return ""
    return name if re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?", name) else ""


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to host and port, 0 for any free one; raise `InvalidSettings` if none can be."""
    if not 0 <= port <= 65535:
        raise InvalidSettings(f"--port must be 0 to 65535, found {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise InvalidSettings(f"--host {host}: no address of this machine: {error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # at once, so that a port that is taken is known before anything is computed
    except OSError as error:
        listening.close()
        option = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        reason = error.strerror or error
        raise InvalidSettings(f"cannot listen on {host} port {port}: {reason}; choose another {option}") from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Return the address of a bound socket, as a browser takes it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def serve(app: Any, listening: socket.socket) -> None:
    """Serve an ASGI application on a socket until SIGINT, which is raised again; SIGTERM ends it as any command."""
    import uvicorn

    config = uvicorn.Config(
        app, access_log=False, log_level="warning", server_header=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=_SECONDS_TO_END, limit_concurrency=200,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").addFilter(_is_failure)
    with listening:
        uvicorn.Server(config).run(sockets=[listening])


def _is_failure(record: logging.LogRecord) -> bool:
    """Whether a line of the log is of this program's own failure: not of what clients send, or leave unfinished."""
    return record.levelno >= logging.ERROR and not record.getMessage().startswith("Cancel ")
