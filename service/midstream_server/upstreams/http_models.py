"""Lists of models, as endpoints give them."""

from midstream_server.upstreams.json_text import as_list, as_object, as_text, decode_json

_MAX_MODELS = 5000
_MAX_NAME_BYTES = 256


def read_model_names(body: bytes) -> tuple[str, ...]:
    """The names in `{"data": [{"id": …}]}`, or in a bare list (Together), less those that callers cannot write.

    Raises:
        ValueError: the body is no such list.
    """
    value = decode_json(body)
    listed = value if isinstance(value, list) else as_object(value).get("data")
    if not isinstance(listed, list):
        raise ValueError("not a list of models")
    names = (as_text(as_object(each).get("id")) for each in as_list(listed)[:_MAX_MODELS])
    return tuple(dict.fromkeys(name for name in names if _is_model_name(name)))


def _is_model_name(name: str) -> bool:
    return (
        bool(name) and name.isprintable() and not any(map(str.isspace, name)) and len(name.encode()) <= _MAX_NAME_BYTES
    )
