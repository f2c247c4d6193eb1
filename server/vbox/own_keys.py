"""Keys of rusb's own in the extra data: of a machine, and of what one filter admits."""

from collections.abc import Callable, Mapping

from rusb.errors import SettingsError

__all__ = ["check_words", "filter_key", "find_word", "machine_key"]


def machine_key(what: str) -> str:
    """Return the key for all of a machine."""
    return f"rusb/{what}"


def filter_key(filter_name: str, what: str) -> str:
    """Return the key for what a filter admits.

    VirtualBox drops attributes of a ``DeviceFilter`` that it does not know.
    """
    return f"rusb/Filter/{filter_name}/{what}"


def find_word(extra_data: Mapping[str, str], what: str, filter_name: str) -> str:
    """Return what is said for what a filter admits, or else for all; empty: nothing.

    Args:
        extra_data: of the machine.
        what: the end of the keys.
        filter_name: empty: no filter admitted it.
    """
    found = extra_data.get(filter_key(filter_name, what), "") if filter_name else ""
    return found or extra_data.get(machine_key(what), "")


def check_words(
    extra_data: Mapping[str, str],
    what: str,
    read: Callable[[str], object],
    *,
    has_filters: bool = True,
) -> None:
    """Check what all keys that end so say.

    Args:
        extra_data: of the machine.
        what: the end of the keys.
        read: understands what they say, or raises SettingsError.
        has_filters: there are such keys for filters, too.

    Raises:
        SettingsError: one says what *read* does not understand.
    """
    head, _, tail = filter_key("\0", what).partition("\0")
    for key, word in extra_data.items():
        is_filter = has_filters and key.startswith(head) and key.endswith(tail)
        if word and (is_filter or key == machine_key(what)):
            try:
                read(word)
            except SettingsError as error:
                raise SettingsError(f"extra data {key}: {error}") from error
