"""Images and documents as the Messages API has them.

https://platform.claude.com/docs/en/build-with-claude/vision, …/pdf-support and …/files
"""

import base64
from urllib.parse import urlsplit

from midstream_server.errors import FieldViolation, InvalidRequest
from midstream_server.model import Blob

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_PDF = "application/pdf"
_PLAIN_TEXT = "text/plain"


def map_blob(blob: Blob, path: str) -> dict[str, object]:
    """An image or a document. What no media type names is an image, but for a file and a URL that ends in `.pdf`.

    Raises:
        InvalidRequest: the API has no such content; names the field.
    """
    mime_type = blob.mime_type.partition(";")[0].strip().lower()
    if blob.file_id:
        kind = "image" if mime_type.startswith("image/") else "document"
        return {"type": kind, "source": {"type": "file", "file_id": blob.file_id}}
    if blob.url:
        return {"type": _kind_of_url(mime_type, blob.url, path), "source": {"type": "url", "url": blob.url}}
    if mime_type == _PLAIN_TEXT:
        source: dict[str, object] = {"type": "text", "media_type": _PLAIN_TEXT, "data": _plain_text(blob.data, path)}
        return {"type": "document", "source": source}
    if mime_type not in _IMAGES and mime_type != _PDF:
        raise InvalidRequest(
            FieldViolation(f"{path}.mime_type", f"must be {', '.join(sorted(_IMAGES))}, {_PDF} or {_PLAIN_TEXT}")
        )
    data = base64.b64encode(blob.data).decode("ascii")
    kind = "document" if mime_type == _PDF else "image"
    return {"type": kind, "source": {"type": "base64", "media_type": mime_type, "data": data}}


def _kind_of_url(mime_type: str, url: str, path: str) -> str:
    if not mime_type:
        return "document" if urlsplit(url).path.lower().endswith(".pdf") else "image"
    if mime_type == _PDF:
        return "document"
    if mime_type.startswith("image/"):
        return "image"
    raise InvalidRequest(FieldViolation(f"{path}.url", "only images and PDF documents can be given by URL here"))


def _plain_text(data: bytes, path: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(FieldViolation(f"{path}.data", "is not UTF-8")) from error
