"""An authentication library that writes down how it is called."""

import os
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
    with open(os.environ["TELLING_LIBRARY"], "a") as file:
        file.write(f"{'on' if is_logon else 'off'} {client_id}\n")
    if user == "slow":
        time.sleep(0.5)
    return int(password == "secret")
