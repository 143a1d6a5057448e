"""Downloads: into an open file, resumed where one broke off, with a reason where one fails."""

from __future__ import annotations

import http.client
import json
import logging
import re
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError

from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte

#: Attempts that bring nothing before a download is given up.
ATTEMPTS = 3

_logger = logging.getLogger(__name__)


class DownloadError(Exception):
    """Why nothing, or not all, came; its words are for the middle of a sentence."""


def download(
    address: str,
    file: IO[bytes],
    label: str,
    most: int,
    validator: str = "",
    on_answer: Callable[[str, int | None], None] | None = None,
) -> None:
    """Write what is at ``address`` into ``file``, with a bar on a terminal.

    What ``file`` holds before its position is kept where the server says that it is the beginning
    of the same thing: ``validator`` (its ETag or date) was told when that came. ``on_answer`` is
    told the validator and the size of the whole before anything is written. At most ``most`` bytes.
    Raises DownloadError.
    """
    start = file.tell()
    headers = {"User-Agent": "anipot"}
    if start and validator:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    try:
        request = urllib.request.Request(address, headers=headers)
        with _opener().open(request, timeout=TIMEOUT) as answer:
            if not (answer.status == 206 and _first(answer.headers) == start):
                start = 0
            file.seek(start)
            file.truncate()
            told = answer.headers.get("Content-Length")
            total = start + int(told) if told and told.isdigit() else None
            if on_answer is not None:
                on_answer(_validator(answer.headers), total)
            with tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=label, disable=None,
                leave=False,
            ) as bar:  # fmt: skip
                while part := answer.read(1 << 16):
                    file.write(part)
                    bar.update(len(part))
                    if file.tell() > most:
                        raise OSError(f"more than {most:,} bytes came")
        if total is not None and file.tell() != total:
            raise OSError(f"only {file.tell():,} of {total:,} bytes came")
    # ValueError: an address that is none
    except (OSError, http.client.HTTPException, ValueError) as e:
        # Of a URLError, which has no more to say than that it is one, the reason.
        reason = str(e) if isinstance(e, HTTPError) else str(getattr(e, "reason", "") or e)
        raise DownloadError(reason or type(e).__name__) from None


def download_file(address: str, path: Path, label: str, most: int) -> None:
    """Download to ``path``, going on with what a killed or broken download left there.

    Beside it lies ``path`` + ``.json`` while it is not complete. Raises DownloadError after
    ``ATTEMPTS`` in a row that brought nothing.
    """
    beside = path.with_name(f"{path.name}.json")
    known: dict[str, Any] = {"address": address, "validator": "", "total": None}
    with suppress(OSError, ValueError, TypeError, KeyError):
        before = json.loads(beside.read_text(encoding="utf-8"))
        known = before if before["address"] == address else known

    def remember(validator: str, total: int | None) -> None:
        known.update(validator=validator, total=total)
        beside.write_text(json.dumps(known), encoding="utf-8")

    failed = 0
    with path.open("ab+") as file:
        if not known["validator"]:
            file.truncate(0)
        while known["total"] is None or file.seek(0, 2) != known["total"]:
            there = file.seek(0, 2)
            try:
                download(address, file, label, most, str(known["validator"]), remember)
                break
            except DownloadError as e:
                failed = failed + 1 if file.seek(0, 2) <= there else 1
                if failed >= ATTEMPTS or (not there and file.tell() == 0):
                    raise
                if "416" in str(e):  # what is there is more than the server has: begin again
                    known["validator"] = ""
                _logger.info("%s: %s; trying again", label, e)
    beside.unlink(missing_ok=True)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from an encrypted connection to an open one."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme.lower() != "https":
            raise OSError(
                f"it is redirected from https to {newurl[:200]}, where anybody on the way could "
                "change what comes; refused"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Redirects)


def _validator(headers: http.client.HTTPMessage) -> str:
    """Identifier of a state of the file: a strong ETag, else the date."""
    etag = str(headers.get("ETag") or "")
    return etag if etag and not etag.startswith("W/") else str(headers.get("Last-Modified") or "")


def _first(headers: http.client.HTTPMessage) -> int | None:
    found = re.match(r"bytes (\d+)-", headers.get("Content-Range") or "")
    return None if found is None else int(found[1])
