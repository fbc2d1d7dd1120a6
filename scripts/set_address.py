"""Write where the repository is, once somebody has said so: ``[project.urls]``, and links of the README that lead there.

    python scripts/set_address.py https://HOST/OWNER/NAME
    python scripts/set_address.py https://HOST/OWNER/NAME --pages "{address}/-/blob/v1/{path}"

An index of packages shows the README without the files beside it. Links between the pages of docs/ stay relative: they are read
where the files are. A second run, with this or another address, changes what the first one wrote.
"""

from __future__ import annotations

import argparse
import re
import sys
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
PAGES, PICTURES = "{address}/blob/main/{path}", "{address}/raw/main/{path}"
TABLE = re.compile(r"^\[project\.urls\]\n(?:[^\[\n].*\n|\n)*", re.M)
#: A link of Markdown that is no code: whether it shows a picture, its text, and where it goes.
LINK = re.compile(r"(!?)(\[[^\]]*\])\(([^)\s]+)\)")


def with_urls(project: str, address: str, pages: str) -> str:
    """pyproject.toml with the addresses, in place of those that it had."""
    table = (
        "[project.urls]\n"
        f'Repository = "{address}"\n'
        f'Documentation = "{pages.format(address=address, path="docs/index.md")}"\n'
        f'Changelog = "{pages.format(address=address, path="CHANGELOG.md")}"\n'
        f'Issues = "{address}/issues"\n\n'
    )
    bare = TABLE.sub("", project)
    return bare.replace("[project.optional-dependencies]\n", f"{table}[project.optional-dependencies]\n", 1)


def in_repository(link: str, before: str | None) -> str | None:
    """The path in the repository that a link names, also by the address that it had before; None for all other links."""
    if before is None or not link.startswith(f"{before}/"):
        return None if urlsplit(link).scheme or link.startswith("#") else link
    parts = link.removeprefix(f"{before}/").split("/")
    paths = ["/".join(parts[i:]) for i in range(len(parts))]
    return next((path for path in paths if (ROOT / path.partition("#")[0]).is_file()), None)


def with_links(text: str, address: str, before: str | None, pages: str, pictures: str) -> str:
    """The README with links that lead there from anywhere."""

    def absolute(found: re.Match[str]) -> str:
        shown, words, link = found.groups()
        path = in_repository(link, before)
        there = link if path is None else (pictures if shown or is_picture(path) else pages).format(address=address, path=path)
        return f"{shown}{words}({there})"

    blocks = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)  # code is left alone
    return "".join(part if part.startswith("```") else LINK.sub(absolute, part) for part in blocks)


def is_picture(path: str) -> bool:
    return path.endswith((".png", ".jpg", ".svg"))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("address", metavar="ADDRESS", help="where the repository is, https://HOST/OWNER/NAME")
    parser.add_argument("--pages", default=PAGES, help="where a file is shown there")
    parser.add_argument("--pictures", default=PICTURES, help="where a file is there as it is")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder of README.md and pyproject.toml")
    given = parser.parse_args()
    address = given.address.rstrip("/").removesuffix(".git")
    if urlsplit(address).scheme != "https" or not urlsplit(address).netloc or set(address) & set(' "\\'):
        print(f"{given.address} is no address of a repository: write https://HOST/OWNER/NAME", file=sys.stderr)
        return 2
    project, readme = given.root / "pyproject.toml", given.root / "README.md"
    had = re.search(r'^Repository = "(.*)"$', project.read_text(), re.M)
    links = partial(with_links, address=address, before=had[1] if had else None, pages=given.pages, pictures=given.pictures)
    project.write_text(with_urls(project.read_text(), address, given.pages))
    readme.write_text(links(readme.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
