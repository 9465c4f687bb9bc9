"""Takes the picture of the operator's page that README shows.

In one shell `relay demo --web`, in another `.venv/bin/python tools/page_picture.py URL FILE.png`;
it needs Debian's package chromium.
"""

import shutil
import sys

from playwright.sync_api import sync_playwright

_WIDTH, _HEIGHT = 1000, 760


def main(url: str, file: str) -> None:
    """Take it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
        page.goto(url)
        page.wait_for_selector("h1")
        page.screenshot(path=file)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
