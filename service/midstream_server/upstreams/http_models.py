"""Lists of models, as endpoints give them."""

from midstream_server.model import JsonValue
from midstream_server.upstreams.base import ModelListing
from midstream_server.upstreams.wire.json_text import as_list, as_object, as_text, decode_json

_MAX_MODELS = 5000
_MAX_NAME_BYTES = 256


def read_model_names(body: bytes, listing: ModelListing) -> tuple[str, ...]:
    """The names in a list of models, less those that callers cannot write.

    Raises:
        ValueError: the body is no such list.
    """
    value = decode_json(body)
    listed = value if isinstance(value, list) else as_object(value).get(listing.list_field)
    if not isinstance(listed, list):
        raise ValueError("not a list of models")
    names = (_model_name(as_object(each), listing) for each in listed[:_MAX_MODELS])
    return tuple(dict.fromkeys(name for name in names if _is_model_name(name)))


def _model_name(model: dict[str, JsonValue], listing: ModelListing) -> str:
    if listing.only_with is not None:
        field, word = listing.only_with
        if word not in as_list(model.get(field)):
            return ""
    return as_text(model.get(listing.name_field)).removeprefix(listing.name_prefix)


def _is_model_name(name: str) -> bool:
    return (
        bool(name) and name.isprintable() and not any(map(str.isspace, name)) and len(name.encode()) <= _MAX_NAME_BYTES
    )
