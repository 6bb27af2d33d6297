"""Reading what people write with an editor of their own."""

from pathlib import Path

from mmolre.errors import UserError


def read_text(path: Path) -> str:
    """A text file in UTF-8 (or UTF-16 with its mark).

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return content.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not text in UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
