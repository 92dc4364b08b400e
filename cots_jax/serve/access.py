# SPDX-License-Identifier: Apache-2.0
"""Where the service listens, and who may ask."""

import dataclasses
import ipaddress
import re
import secrets
import socket
from pathlib import Path

from cots_jax.errors import UserError, WrongUseError

LEAST_TOKEN = 16  # characters
LOOPBACK_NAMES = ("localhost",)

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d{1,5})?")


@dataclasses.dataclass(frozen=True)
class Address:
    """Where to listen; port 0 takes a free one. names: it is called by, beside its IP addresses."""

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    token_file: str = ""
    rate: float = 20.0  # searches a second for each client's address

    @property
    def is_loopback(self) -> bool:
        """Whether it is reached from this machine only."""
        if self.host.lower() in LOOPBACK_NAMES:
            return True
        return _is_address(self.host) and ipaddress.ip_address(self.host).is_loopback

    def access(self) -> "Access":
        """Who may ask there. UserError for a token or rate that will not do."""
        if not 0 < self.rate <= 1e6:
            raise WrongUseError(f"--rate={self.rate:g}: take a number above 0 of searches a second")
        own = () if self.is_loopback else (socket.gethostname(),)
        names = tuple(name.lower() for name in (*self.names, *own))
        return Access(self._token(), names, self.rate)

    def _token(self) -> str:
        """The file's, or a new one where others can reach the service; "" on loopback."""
        if not self.token_file:
            return "" if self.is_loopback else secrets.token_urlsafe(24)
        try:
            token = Path(self.token_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise UserError(f"--token_file={self.token_file} cannot be read ({error})") from error
        if re.fullmatch(rf"[A-Za-z0-9_-]{{{LEAST_TOKEN},}}", token) is None:
            raise UserError(
                f"--token_file={self.token_file} should hold {LEAST_TOKEN} or more letters and "
                "digits: make it with `openssl rand -hex 16`"
            )
        return token


@dataclasses.dataclass(frozen=True)
class Access:
    """Who may ask. token: what they have to show, "" for nothing; names: by which the service
    may be called beside its IP addresses and localhost; rate: searches a second and address."""

    token: str = ""
    names: tuple[str, ...] = ()
    rate: float = 20.0

    def knows(self, host: str) -> bool:
        """Whether a Host header is one of ours: a page of another name that was made to point
        here (DNS rebinding) must not read answers."""
        found = _HOST.fullmatch(host.strip())
        if found is None:
            return False
        name = found[1].lower().rstrip(".")
        return name in (*LOOPBACK_NAMES, *self.names) or _is_address(name.strip("[]"))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
