# SPDX-License-Identifier: Apache-2.0
"""All processes meet once before JAX lets them meet, so that what is wrong is said.

JAX's own meeting ends a process from within C++ where somebody does not come, comes twice or holds
the port, and lets processes through that do not agree how many they are (tried with 0.10.2).
"""

import os
import socket
import time

from cots_jax.errors import AGAIN, UserError
from cots_jax.meeting.places import ADDRESS, COUNT, INDEX, Place

HELLO, COME = "cots_jax", "come"
PAUSE = 0.5  # seconds between two tries
MOMENT = 5.0  # seconds for a guest to say who it is, and for an answer to arrive
LONGEST = 500  # characters of a line


class AbsentError(UserError):
    """Not all have come in time, which the next try may mend: machines start when they can."""

    status = AGAIN


def call_roll(place: Place, seconds: float | int) -> None:
    """Returns once all processes are there, at most `seconds` after the first began to wait.

    Raises UserError, in all that are there: AbsentError that says who is missing, or another that
    says what they disagree on.
    """
    if place.index:
        _answer(place, seconds)
    else:
        _call(place, seconds)


def _call(place: Place, seconds: float | int) -> None:
    """The first process: hears the others, then tells all of them the same."""
    deadline = time.monotonic() + seconds
    guests: dict[int, socket.socket] = {}
    fault, kind = "", UserError
    with _listen(place) as door:
        while len(guests) < place.count - 1 and not fault:
            door.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                guest, _ = door.accept()
            except TimeoutError:
                kind = AbsentError
                missing = [str(one) for one in range(1, place.count) if one not in guests]
                fault = (
                    f"{len(missing)} of {place.count} processes did not come to {place.address} "
                    f"within {seconds:g} s (of index {', '.join(missing[:10])}): see their logs, "
                    "and whether their hosts reach this one"
                )
                continue
            said = _hear(guest)
            if said is None:  # a stranger
                guest.close()
                continue
            fault = _fault_of(said, place, guests)
            guests[-1 if fault else said.index] = guest
    for guest in guests.values():
        _tell(guest, f"{kind.status} {fault}" if fault else COME)
    if fault:
        raise kind(fault)


def _listen(place: Place) -> socket.socket:
    port = int(place.address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if both else socket.AF_INET,
            backlog=place.count,
            dualstack_ipv6=both,
        )
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise UserError(
            f"process 0 cannot listen on port {port} ({reason}): end what holds it, or choose "
            f"another port in {ADDRESS}"
        ) from error


def _hear(guest: socket.socket) -> Place | None:
    """Who a guest says it is; None for anything that is none of ours."""
    words = _line(guest, MOMENT).split()
    if len(words) != 3 or words[0] != HELLO or not all(word.isdecimal() for word in words[1:]):
        return None
    return Place(int(words[1]), int(words[2]), "its own word")


def _fault_of(said: Place, place: Place, guests: dict[int, socket.socket]) -> str:
    if said.count != place.count:
        return (
            f"process {said.index} believes in {said.count} processes, process 0 in {place.count}: "
            f"give all of them the same {COUNT}"
        )
    if said.index in guests or said.index == 0:
        return f"two processes have the index {said.index}: give each its own {INDEX}"
    return ""


def _answer(place: Place, seconds: float | int) -> None:
    """The others: say who they are, and wait for the word of the first."""
    host, _, port = place.address.rpartition(":")
    deadline = time.monotonic() + seconds
    trouble = ""
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), MOMENT) as way:
                way.sendall(f"{HELLO} {place.index} {place.count}\n".encode())
                said = _line(way, seconds + MOMENT)
        except OSError as error:
            trouble = error.strerror or str(error)
        else:
            if said == COME:
                return
            word, _, fault = said.partition(" ")
            if word == HELLO:
                status, _, why = fault.partition(" ")
                raise (AbsentError if status == str(AGAIN) else UserError)(why)
            trouble = "something answers that is no process of ours"
        time.sleep(PAUSE)
    raise AbsentError(
        f"{place}, did not find process 0 at {place.address} within {seconds:g} s ({trouble}): see "
        "its log, and whether this host reaches that one"
    )


def _tell(guest: socket.socket, word: str) -> None:
    with guest:
        try:
            guest.settimeout(MOMENT)
            guest.sendall(f"{word if word == COME else f'{HELLO} {word}'}\n".encode())
        except OSError:
            return  # it is gone; JAX's own meeting waits for it and says so


def _line(way: socket.socket, seconds: float | int) -> str:
    """The next line; what came of it where the other side ends or is silent for too long."""
    way.settimeout(seconds)
    heard = b""
    while not heard.endswith(b"\n") and len(heard) < LONGEST:
        try:
            more = way.recv(1)
        except OSError:
            break
        if not more:
            break
        heard += more
    return heard.decode(errors="replace").strip()
