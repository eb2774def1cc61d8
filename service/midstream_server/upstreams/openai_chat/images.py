"""The images of a Chat Completions delta: https://openrouter.ai/docs/features/multimodal/image-generation."""

import base64
import binascii
import re

from midstream_server.model import BlobDelta, JsonValue
from midstream_server.upstreams.wire.json_text import as_object, as_text

_DATA_URL = re.compile(r"data:([^;,]{1,255})(?:;[^;,]{1,255})*;base64,", re.ASCII)


def read_image(value: JsonValue) -> BlobDelta | None:
    """An image by its bytes or its URL; None if there is none."""
    url = as_text(as_object(as_object(value).get("image_url")).get("url"))
    if not url.startswith("data:"):
        return BlobDelta(url=url) if url else None
    head = _DATA_URL.match(url)
    if head is None:
        return None
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError):
        return None
    return BlobDelta(mime_type=head[1], data=data) if data else None
