"""Command lines in VirtualBox's grammar (filters.md 3): options in order, both dashes.

``--name value``, ``--name=value`` and the historical ``-name value`` are the same, and
hyphens inside a name do not count (``--vrdeport``, ``--vrde-port``). After ``--`` there
are only words.
"""

from collections.abc import Collection, Iterable, Sequence

from rusb.errors import RusbError, SettingsError

from ._hints import did_you_mean

__all__ = [
    "HELP",
    "Given",
    "HelpWanted",
    "Option",
    "UsageError",
    "literal",
    "on_off",
    "one_of",
    "parse",
    "unsigned",
    "yes_no",
]

MAX_UNSIGNED = 0xFFFF_FFFF

HELP = ("--help", "-help", "-h", "-?")


class UsageError(RusbError):
    """The command line is wrong, whatever there is; exit status 2, of our own commands
    64."""


class HelpWanted(Exception):  # noqa: N818 - it is no error
    """The command line asks what it may hold: *options*."""

    def __init__(self, options: Iterable["Option"]) -> None:
        super().__init__()
        self.options = tuple(options)


class Option:
    """An option; every command makes some, so it is no dataclass, nor is Given.

    Attributes:
        name: without dashes in front; hyphens in it do not count.
        values: how many words follow.
        short: one letter, after a single dash.
        instead: the present name of one that is deprecated.
        alone: first values, in lower case, that no further one follows.
        two: first values, in lower case, that a second one follows.
        refused: why rusb cannot carry it out; empty: it can.
        unless: values, in lower case, of a refused one that ask for what is so anyhow.
        idle: why it changes nothing, whatever its value; empty: it does.
    """

    __slots__ = (
        *("name", "values", "short", "instead", "alone", "two"),
        *("refused", "unless", "idle"),
    )

    def __init__(
        self,
        name: str,
        values: int = 1,
        short: str = "",
        instead: str = "",
        alone: tuple[str, ...] = (),
        two: tuple[str, ...] = (),
        refused: str = "",
        unless: tuple[str, ...] = (),
        idle: str = "",
    ) -> None:
        self.name = name
        self.values = values
        self.short = short
        self.instead = instead
        self.alone = alone
        self.two = two
        self.refused = refused
        self.unless = unless
        self.idle = idle

    def count(self, first: str) -> int:
        """How many words follow, of which the first one is *first*."""
        if first.lower() in self.alone:
            return 1
        return 2 if first.lower() in self.two else self.values


class Given:
    """What a command line holds.

    Attributes:
        words: those that are no options, in order.
        options: names and values, in order; an option given twice is there twice.
        warnings: about deprecated names.
        refused: names and why, in order.
    """

    __slots__ = ("options", "refused", "warnings", "words")

    def __init__(self) -> None:
        self.words: list[str] = []
        self.options: list[tuple[str, tuple[str, ...]]] = []
        self.warnings: list[str] = []
        self.refused: dict[str, str] = {}

    def refusals(self) -> list[str]:
        """Return a sentence for each reason why options are refused."""
        reasons = dict.fromkeys(self.refused.values())
        return [
            f"{', '.join(n for n, why in self.refused.items() if why == reason)}:"
            f" {reason}"
            for reason in reasons
        ]

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


def parse(
    words: Sequence[str], options: Iterable[Option], *, is_patient: bool = False
) -> Given:
    """Read a command line.

    Args:
        words: of it.
        options: that it may hold.
        is_patient: who calls says what is refused, with what else it finds wrong.

    Raises:
        UsageError: an unknown option, or one without its value.
        SettingsError: options that rusb cannot carry out; all of them are named.
        HelpWanted: one of HELP is there.
    """
    options = tuple(options)
    known = _names(options)
    given, rest = Given(), list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":  # what follows are words, whatever they begin with
            given.words += rest
            break
        name, equals, value = word.partition("=")
        if option := known.get(_key(word)):
            name = word
            count = option.count(rest[0] if rest else "")
            values = rest[:count]
            del rest[:count]
        elif equals and (option := known.get(_key(name))) and option.values:
            values = [value]
            count = option.count(value)
        elif word in HELP:
            raise HelpWanted(options)
        elif word[:1] == "-" and len(word) > 1 and not word[1:].isdigit():
            raise UsageError(f"unknown option {word!r}{_hint(name, options)}")
        else:
            given.words.append(word)
            continue
        if option.refused and "".join(values[:1]).lower() not in option.unless:
            given.refused[name] = option.refused
            continue
        if len(values) < count:
            raise UsageError(f"option {name} needs {_COUNTS[count]}")
        if option.instead:
            given.warnings.append(f"{name} is deprecated; use --{option.instead}")
        given.options.append((option.instead or option.name, tuple(values)))
    if given.refused and not is_patient:
        raise SettingsError("; ".join(given.refusals()))
    return given


_COUNTS = {1: "a value", 2: "two values"}


def _names(options: Iterable[Option]) -> dict[str, Option]:
    known: dict[str, Option] = {}
    for option in options:
        name = option.name.replace("-", "")
        known[f"--{name}"] = known[f"-{name}"] = option
        if option.short:
            known[f"-{option.short}"] = option
    return known


def _key(word: str) -> str:
    dashes = word[: len(word) - len(word.lstrip("-"))]
    return dashes + word.replace("-", "")


def _hint(name: str, options: Iterable[Option]) -> str:
    useful = (o for o in options if not (o.refused or o.idle))
    names = [name for name in _names(useful) if name[:2] == "--"]
    return did_you_mean(_key(f"--{name.lstrip('-')}"), names)


def literal(words: Sequence[str], counts: Collection[int]) -> list[str]:
    """Return words that are taken as they are, whatever they begin with.

    Raises:
        UsageError: their number is none of *counts*.
        HelpWanted: the first is one of HELP.
    """
    if words[:1] and words[0] in HELP:
        raise HelpWanted(())
    if len(words) not in counts:
        raise UsageError(
            "too few arguments" if len(words) < min(counts) else "too many arguments"
        )
    return list(words)


def one_of(name: str, text: str, words: Collection[str]) -> str:
    """Return one of some keywords, which are typed in any case.

    Raises:
        UsageError: it is none of them.
    """
    if text.lower() not in words:
        raise UsageError(
            f"invalid value {text!r} for --{name}; choose one of {', '.join(words)}"
        )
    return text.lower()


def on_off(name: str, text: str) -> bool:
    """Read ``on`` or ``off``, in any case.

    Raises:
        UsageError: it is neither.
    """
    return one_of(name, text, ("on", "off")) == "on"


def yes_no(name: str, text: str) -> bool:
    """Read ``yes`` or ``no``, in this case.

    Raises:
        UsageError: it is neither.
    """
    if text not in ("yes", "no"):
        raise UsageError(f"invalid value {text!r} for --{name}; use yes or no")
    return text == "yes"


def unsigned(name: str, text: str, limit: int = MAX_UNSIGNED) -> int:
    """Read a decimal number from 0 to *limit*; a leading ``+`` is tolerated.

    Raises:
        UsageError: it is not one.
    """
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"invalid value {text!r} for {name}: it must be a number")
    digits = digits.lstrip("0") or "0"
    # int() refuses thousands of digits
    if len(digits) > len(str(limit)) or int(digits) > limit:
        raise UsageError(
            f"invalid value {text!r} for {name}: it must be at most {limit}"
        )
    return int(digits)
