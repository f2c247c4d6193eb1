"""Command lines in VirtualBox's grammar (filters.md 3): options in order, both dashes.

``--name value``, ``--name=value`` and the historical ``-name value`` are the same, as
are the names with and without hyphens (``--vrdeport``, ``--vrde-port``).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rusb.errors import RusbError

__all__ = ["Given", "Option", "UsageError", "on_off", "parse", "unsigned", "yes_no"]

MAX_UNSIGNED = 0xFFFF_FFFF


class UsageError(RusbError):
    """The command line cannot be understood; exit status 2."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Attributes:
        name: without dashes; hyphens in it may be left out on the command line.
        values: how many words follow.
        short: one letter, after a single dash.
        instead: the present name of one that is deprecated.
    """

    name: str
    values: int = 1
    short: str = ""
    instead: str = ""


@dataclass(slots=True)
class Given:
    """What a command line holds.

    Attributes:
        words: those that are no options, in order.
        options: names and values, in order; an option given twice is there twice.
        warnings: about deprecated names.
    """

    words: list[str] = field(default_factory=list)
    options: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def last(self, name: str, default: str | None = None) -> str | None:
        """Return the value of an option; the last one counts."""
        found = [values for key, values in self.options if key == name]
        if not found:
            return default
        return found[-1][0] if found[-1] else ""

    def has(self, name: str) -> bool:
        """Is an option there?"""
        return any(key == name for key, _ in self.options)

    def need(self, name: str, what: str) -> str:
        """Return the value of an option that must be there.

        Raises:
            UsageError: it is not.
        """
        value = self.last(name)
        if value is None:
            raise UsageError(f"missing --{name}: {what}")
        return value


def parse(words: Sequence[str], options: Iterable[Option]) -> Given:
    """Read a command line.

    Raises:
        UsageError: an unknown option, or one without its value.
    """
    known: dict[str, Option] = {}
    for option in options:
        for name in (option.name, option.name.replace("-", "")):
            known[f"--{name}"] = known[f"-{name}"] = option
        if option.short:
            known[f"-{option.short}"] = option
    given, rest = Given(), list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in known:
            option, values = known[word], rest[: known[word].values]
            del rest[: len(values)]
        elif equals and name in known and known[name].values == 1:
            option, values = known[name], [value]
        elif word[:1] == "-" and len(word) > 1 and not word[1:].isdigit():
            raise UsageError(f"unknown option {word!r}")
        else:
            given.words.append(word)
            continue
        if len(values) < option.values:
            raise UsageError(f"option {word} needs a value")
        if option.instead:
            given.warnings.append(
                f"--{option.name} is deprecated; --{option.instead} is its name now"
            )
        given.options.append((option.instead or option.name, tuple(values)))
    return given


def on_off(name: str, text: str) -> bool:
    """Read ``on`` or ``off``, in any case.

    Raises:
        UsageError: it is neither.
    """
    return _either(name, text, "on", "off")


def yes_no(name: str, text: str) -> bool:
    """Read ``yes`` or ``no``; otherwise as :func:`on_off`."""
    return _either(name, text, "yes", "no")


def _either(name: str, text: str, yes: str, no: str) -> bool:
    word = text.lower()
    if word not in (yes, no):
        raise UsageError(f"invalid value {text!r} of --{name}: {yes} or {no}")
    return word == yes


def unsigned(name: str, text: str, limit: int = MAX_UNSIGNED) -> int:
    """Read a decimal number from 0 to *limit*; a leading ``+`` is tolerated.

    Raises:
        UsageError: it is not one.
    """
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(limit))):
        raise UsageError(f"invalid value {text!r} of {name}: a number is wanted")
    if int(digits) > limit:
        raise UsageError(f"invalid value {text!r} of {name}: at most {limit}")
    return int(digits)
