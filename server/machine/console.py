"""The keyboard, the screen and the network of a running machine, by QEMU's monitor.

What is done here counts for this run; the settings stay as they are.
"""

import asyncio
import shlex
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from rusb.errors import ControlError, RusbError
from rusb.oserrors import reason

from ..display.keys import MAX_KEYS, parse_scancodes
from ..vbox.forwards import Forward, check_forward, no_forward
from ..vbox.model import Hardware

__all__ = ["Console"]

KEY_PERIOD = 0.02
"""Seconds between two presses or releases: a PS/2 keyboard keeps 16 bytes that the
guest has not read, and drops more."""

CARD = "video0"
"""What the monitor calls the graphics card."""

SLEEP_KEY = bytes.fromhex("e05f e0df")
"""The key of a keyboard that sends a machine to sleep, pressed and released."""

Ask = Callable[[str, Mapping[str, object] | None], Awaitable[object]]
"""Runs a command of QEMU's monitor."""


class Console:
    """What ``controlvm`` does to a running machine besides its power and its display.

    Args:
        hardware: what the machine is made of.
        ask: runs a command of QEMU's monitor.
        screens: how many it has.
        names: return QEMU's names of the network and the card in a slot.
        log: gets a line for everything that is done.
    """

    def __init__(
        self,
        hardware: Hardware,
        ask: Ask,
        screens: int,
        names: Callable[[int], tuple[str, str]],
        log: Callable[[str], None],
    ) -> None:
        self._adapters = hardware.adapters
        self._ask = ask
        self._screens = screens
        self._names = names
        self._log = log
        self._rules: dict[int, tuple[Forward, ...]] = {}
        self._links = dict.fromkeys(hardware.adapters, True)
        self._typing = asyncio.Lock()
        self._forwarding = asyncio.Lock()  # rules change one after another

    async def start(self) -> None:
        """Do what QEMU's command line cannot say.

        Raises:
            ControlError: ports of the host cannot be forwarded; all else is done.
        """
        problems = []
        self._rules.clear()  # those of a QEMU before: the machine was away and is back
        self._links = dict.fromkeys(self._adapters, True)
        for slot, adapter in sorted(self._adapters.items()):
            # also one that is in: its card may come from a host where it was out
            await self._set_link(slot, is_on=adapter.is_linked)
            for rule in adapter.forwards if adapter.mode == "NAT" else ():
                try:
                    await self._add_rule(slot, rule)
                except RusbError as error:
                    problems.append(
                        f"{error}; or remove the rule: modifyvm VM --natpf{slot + 1}"
                        f" delete {shlex.quote(rule.name)}"
                    )
        if problems:
            raise ControlError("; ".join(problems))

    def changes(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        """What changes the machine for this run, over the control socket, by name."""
        return {"natpf": self._natpf, "setlinkstate": self._setlinkstate}

    def commands(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        """What else can be asked there."""
        return {
            "screenshot": self._screenshot,
            "keys": self._keys,
            "acpisleepbutton": self._sleep,
        }

    def rules(self) -> dict[str, tuple[str, ...]]:
        """The rules that are in force, by slot."""
        return {
            str(slot): tuple(map(str, rules)) for slot, rules in self._rules.items()
        }

    def links(self) -> dict[str, bool]:
        """Which adapters have their cable in, by slot."""
        return {str(slot): is_on for slot, is_on in self._links.items()}

    # ------------------------------------------------------------- network ----

    async def _natpf(self, arguments: Mapping[str, Any]) -> None:
        """Add the rule ``add`` to an adapter's, or remove the one named ``delete``."""
        slot = self._slot(arguments)
        if self._adapters[slot].mode != "NAT":
            raise ControlError(f"network adapter {slot + 1} is not attached to NAT")
        async with self._forwarding:
            if "add" in arguments:
                await self._add_rule(slot, Forward.parse(str(arguments["add"])))
            else:
                await self._delete_rule(slot, str(arguments["delete"]))

    async def _delete_rule(self, slot: int, name: str) -> None:
        rules = self._rules.get(slot, ())
        for rule in rules:
            if rule.name == name:
                text = await self._tell(
                    f"hostfwd_remove {self._names(slot)[0]} {rule.host}"
                )
                self._log(f"NAT: adapter {slot + 1}: removed {rule}: {text}")
                self._rules[slot] = tuple(r for r in rules if r is not rule)
                return
        raise ControlError(no_forward(name, rules))

    async def _add_rule(self, slot: int, rule: Forward) -> None:
        """Let QEMU listen; what it answers is why it does not.

        Raises:
            RusbError: the rule is wrong, or its port of the host cannot be had.
        """
        where = f"the forwarding rule {str(rule)!r} of network adapter {slot + 1}"
        if rule.problem:
            raise ControlError(f"{where}: {rule.problem}")
        rules = self._rules.get(slot, ())
        check_forward(rule, rules)
        if answer := await self._tell(
            f"hostfwd_add {self._names(slot)[0]} {rule.rule}"
        ):
            why = _why(rule) or answer
            raise ControlError(
                f"{where}: the host's port {rule.host_port} cannot be used: {why};"
                " choose another port"
            )
        self._rules[slot] = (*rules, rule)
        self._log(f"NAT: adapter {slot + 1}: added {rule}")

    async def _tell(self, line: str) -> str:
        answer = await self._ask("human-monitor-command", {"command-line": line})
        return str(answer).strip()

    async def _setlinkstate(self, arguments: Mapping[str, Any]) -> None:
        """Pull the cable of an adapter out, or put it in."""
        await self._set_link(self._slot(arguments), is_on=bool(arguments["enabled"]))

    async def _set_link(self, slot: int, *, is_on: bool) -> None:
        await self._ask("set_link", {"name": self._names(slot)[1], "up": is_on})
        if self._links[slot] != is_on:
            word = "up" if is_on else "down"
            self._log(f"Console: network adapter {slot + 1}: link {word}")
        self._links[slot] = is_on

    def _slot(self, arguments: Mapping[str, Any]) -> int:
        number = int(arguments["number"])
        if number - 1 not in self._adapters:
            there = (
                ", ".join(str(slot + 1) for slot in sorted(self._adapters)) or "none"
            )
            raise ControlError(
                f"the machine has no network adapter {number}; choose one of {there}"
            )
        return number - 1

    # -------------------------------------------------- screen and keyboard ----

    async def _screenshot(self, arguments: Mapping[str, Any]) -> None:
        """Write a picture of the screen, as PPM, to a file of the caller's."""
        screen, name = int(arguments.get("screen", 0)), str(arguments["file"])
        if not 0 <= screen < self._screens:
            has = f"has the screens 0 to {self._screens - 1}"
            if self._screens == 1:
                has = "only has screen 0"
            raise ControlError(f"there is no screen {screen}: the machine {has}")
        place = {"device": CARD, "head": screen} if screen else {}
        await self._ask("screendump", {"filename": name, **place})

    async def _keys(self, arguments: Mapping[str, Any]) -> None:
        """Press and release keys: ``codes`` are scan codes of set 1, hexadecimal."""
        try:
            codes = bytes.fromhex(str(arguments["codes"]))
        except ValueError as error:
            raise ControlError(f"scan codes are hexadecimal: {error}") from None
        await self._press(codes)

    async def _sleep(self, arguments: Mapping[str, Any]) -> None:
        """Press the sleep key: QEMU's machines have no such button."""
        await self._press(SLEEP_KEY)

    async def _press(self, codes: bytes) -> None:
        keys = parse_scancodes(codes)
        if len(keys) > MAX_KEYS:
            raise ControlError(f"{len(keys)} keys at once; the maximum is {MAX_KEYS}")
        async with self._typing:
            status = await self._ask("query-status", None)
            state = status.get("status") if isinstance(status, dict) else status
            if state not in ("running", "suspended"):
                raise ControlError(
                    f"the machine is {state}, so its guest does not read the keyboard;"
                    " continue it with controlvm VM resume"
                )
            for number, is_down in keys:
                key = {"type": "number", "data": number}
                event = {"type": "key", "data": {"down": is_down, "key": key}}
                await self._ask("input-send-event", {"events": [event]})
                await asyncio.sleep(KEY_PERIOD)


def _why(rule: Forward) -> str:
    """Why a port cannot be had, which QEMU does not say; empty: it could."""
    kind = socket.SOCK_STREAM if rule.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as trial:
        try:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((rule.host_ip, rule.host_port))
            if kind == socket.SOCK_STREAM:
                trial.listen(1)
        except OSError as error:
            return reason(error)
    return ""
