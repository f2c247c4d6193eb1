"""``rusb serve --user NAME``: open what only root can, then be somebody else."""

import os
import pwd

import rusb
from rusb.errors import SettingsError
from rusb.server.config import ServerConfig
from rusb.server.server import Server

__all__ = ["check_guest", "check_logons", "drop_root", "find_user"]


def find_user(name: str) -> pwd.struct_passwd:
    """Return the user whom we are to become.

    Raises:
        SettingsError: there is none such, it is root, or we may not become others.
    """
    if os.geteuid() != 0:
        raise SettingsError(
            f"--user {name}: only root can become another user; start rusb serve as"
            f" {name} instead"
        )
    try:
        user = pwd.getpwnam(name)
    except (KeyError, ValueError):
        raise SettingsError(f"--user {name}: there is no such user") from None
    if user.pw_uid == 0:
        raise SettingsError(f"--user {name}: that is root; name an ordinary user")
    if user.pw_gid == 0:
        raise SettingsError(
            f"--user {name}: the primary group of {name} is root's; give {name} a"
            " group of its own (usermod -g)"
        )
    for module in (os.__file__, rusb.__file__):
        if not _can_read(user, module):
            raise SettingsError(
                f"--user {name}: {name} cannot read {module}, which rusb needs at all"
                f" times; install Python and rusb where {name} can read them"
            )
    return user


def _can_read(user: pwd.struct_passwd, path: str) -> bool:
    groups, group = os.getgroups(), os.getegid()
    os.initgroups(user.pw_name, user.pw_gid)
    os.setegid(user.pw_gid)
    os.seteuid(user.pw_uid)
    try:
        return os.access(path, os.R_OK, effective_ids=True)
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def check_guest(config: ServerConfig) -> None:
    """Refuse guests whose sockets or terminals could be made by root only.

    Raises:
        SettingsError: it is pyusb, libvirt or pty.
    """
    kind = config.guest.partition(":")[0]
    if kind in ("pyusb", "libvirt", "pty"):
        raise SettingsError(
            f"--user cannot be combined with --guest {kind}: what it makes must belong"
            " to the user that runs rusb serve; start rusb serve as that user"
        )


def check_logons(server: Server) -> None:
    """Refuse what has to be asked as root.

    Raises:
        SettingsError: it is PAM, which wants root or a member of ``shadow``.
    """
    if "PAM" in server.authenticator.library:
        raise SettingsError(
            "--user cannot be combined with PAM, which checks the passwords of others"
            " only for root or members of the group shadow; use VBoxAuthSimple"
            " (modifyvm … --vrdeauthlibrary VBoxAuthSimple), start rusb serve as such a"
            " member, or omit --user"
        )


def drop_root(user: pwd.struct_passwd) -> None:
    """Become *user* for good, in every thread; ports and files that are open stay."""
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    if set(os.getresuid() + os.getresgid()) & {0}:
        raise AssertionError("root was not dropped")
