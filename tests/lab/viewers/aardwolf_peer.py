"""aardwolf, a client in Python: connect, and say the colour of most of the screen."""

import asyncio
import sys

from aardwolf.commons.factory import RDPConnectionFactory
from aardwolf.commons.iosettings import RDPIOSettings
from aardwolf.commons.queuedata.constants import VIDEO_FORMAT


async def main(port: str) -> None:
    settings = RDPIOSettings()
    settings.video_width, settings.video_height = 800, 600
    settings.video_bpp_min, settings.video_bpp_max = 15, 32
    settings.video_out_format = VIDEO_FORMAT.PIL
    settings.clipboard_use_pyperclip = False
    url = f"rdp+plain-password://aardwolf:p@127.0.0.1:{port}"
    factory = RDPConnectionFactory.from_url(url, settings)
    async with factory.create_connection_newtarget("127.0.0.1", settings) as one:
        _, error = await one.connect()
        if error is not None:
            raise SystemExit(repr(error))
        while True:
            await asyncio.sleep(0.2)
            if (picture := one.get_desktop_buffer(VIDEO_FORMAT.PIL)) is None:
                continue
            _, colour = max(picture.convert("RGB").getcolors(1 << 20))
            print("colour", *colour, flush=True)


asyncio.run(main(sys.argv[1]))
