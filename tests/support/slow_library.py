"""An authentication library that lets the user ``slow`` wait."""

import time


def vrdp_auth3(
    caller: str,
    uuid: bytes | None,
    judgement: int,
    user: str,
    password: str,
    domain: str,
    is_logon: int,
    client_id: int,
) -> int:
    if user == "slow":
        time.sleep(1.5)
        return 0
    return 1
