"""Generate with a model of transformers whose cache of keys and values the service keeps.

    with client.session_cache(model, max_tokens=4096) as cache:
        model.generate(**inputs, past_key_values=cache)

Needs torch and transformers: `pip install rope-client[transformers]`.
"""

from rope_client.transformers.cache import RopeSessionCache
from rope_client.transformers.errors import UnsupportedModelCall
from rope_client.transformers.model import session_cache

__all__ = ["RopeSessionCache", "UnsupportedModelCall", "session_cache"]
