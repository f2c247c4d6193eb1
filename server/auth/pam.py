"""``VBoxAuth``: the accounts of this machine, through PAM (vrdp-server.md 3.4)."""

import logging
import os

from rusb.errors import SettingsError

from .base import Judgement, Request, Result, plain_name

__all__ = ["DEFAULT_SERVICE", "Pam"]

log = logging.getLogger(__name__)

DEFAULT_SERVICE = "login"
SERVICE_VARIABLES = ("VBOX_AUTH_PAM_SERVICE", "VRDP_AUTH_PAM_SERVICE")
ALLOW_INACTIVE = "VBOX_PAM_ALLOW_INACTIVE"

SHADOW = "/etc/shadow"
"""Who reads it can check everybody's password."""

AUTHINFO_UNAVAIL = 9
"""Linux-PAM's number of "authentication information unavailable"."""


class Pam:
    """Asks PAM for the user, then whether the account may be used.

    Args:
        service: its file in ``/etc/pam.d``; empty: what the environment says.
    """

    def __init__(self, service: str = "") -> None:
        named = [os.environ.get(name, "") for name in SERVICE_VARIABLES]
        choices = (service, *named, DEFAULT_SERVICE)
        self.service = next(name for name in choices if name)
        self.title = f"VBoxAuth, PAM service {self.service}"

    def problem(self) -> str:
        """Say whose passwords pam_unix checks for us."""
        if os.geteuid() == 0 or os.access(SHADOW, os.R_OK):
            return ""
        return (
            "PAM (pam_unix) lets this server check the password of its own user only;"
            " to check those of others, run it as root or as a member of the group"
            " shadow, or use VBoxAuthSimple"
        )

    def who(self, request: Request) -> str:
        """Return the plain name: PAM's modules differ. pam_unix compares the name as
        given, those of domains also take DOMAIN\\name, name@domain, and capitals."""
        return plain_name(request.user)

    def logon(self, request: Request, judgement: Judgement) -> int:
        """Ask; the domain is ignored."""
        try:
            import pamela  # looks for libpam, which not every system has
        except (ImportError, OSError) as error:
            raise SettingsError(
                "PAM is not available on this system; use VBoxAuthSimple"
            ) from error
        if "\0" in request.user + request.password:
            return Result.DENIED  # C would see what precedes it only
        if not request.user:
            return Result.DENIED  # PAM would ask for a name
        if not request.password:
            return Result.DENIED  # pam_unix with nullok lets in who has no password
        is_checked = True
        for _ in range(2):
            try:
                pamela.authenticate(
                    request.user,
                    request.password,
                    self.service,
                    resetcred=0,
                    check=is_checked,
                )
            except pamela.PAMError as error:
                log.info("PAM service %s: error %s", self.service, error.errno)
                is_inactive = error.errno == AUTHINFO_UNAVAIL
                if is_checked and is_inactive and ALLOW_INACTIVE in os.environ:
                    is_checked = False  # only the account's check may say so
                    continue
                return Result.DENIED
            return Result.GRANTED
        return Result.DENIED

    def logoff(self, client_id: int) -> None:
        """Nothing to do (3.4)."""
