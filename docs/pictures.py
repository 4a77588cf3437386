"""Take the picture of the README from a running service: `python -m docs.pictures [URL]`.

It needs Playwright and Chromium (`CHROMIUM` has the path, if it is not /usr/bin/chromium).
"""

import os
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent / "pictures"
SIZE = {"width": 1280, "height": 860}
VIEW = "config.html#preset=llama-3.1-8b&pair=32"


def main(url: str) -> None:
    """Write a picture of the view Config, when its figures are drawn."""
    FOLDER.mkdir(exist_ok=True)
    executable = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, reduced_motion="reduce", locale="en-US")
        page.goto(f"{url}/ui/{VIEW}")
        page.wait_for_selector("#main h1")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=FOLDER / "config.png", animations="disabled")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/") if len(sys.argv) > 1 else "http://127.0.0.1:8000")
